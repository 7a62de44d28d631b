"""The training loss: a sum, which the caller divides by the number of targets in all micro-batches and ranks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layerfit.data.batches import Batch


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the summed cross-entropy of a micro-batch, in nats, over its target tokens.

    Logits are computed only at positions that predict a target in at least one row.
    """
    targets = batch.labels[:, 1:]
    columns = (targets != -100).any(dim=0).nonzero().squeeze(1)
    logits = model(**batch.model_inputs(), use_cache=False, logits_to_keep=columns).logits
    flat = logits.float().reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, targets[:, columns].reshape(-1), ignore_index=-100, reduction="sum")
