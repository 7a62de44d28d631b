"""Fine-tuning data: rows -> turns -> exchanges -> examples -> batches, a file each; `load_data` is the way in."""

from layerfit.data.batches import Batch, order, probe_indices, steps_for_epochs
from layerfit.data.loading import FineTuningData, load_data
from layerfit.data.tokenise import Example

__all__ = ["Batch", "Example", "FineTuningData", "load_data", "order", "probe_indices", "steps_for_epochs"]
