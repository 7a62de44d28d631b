"""stub"""

from dataclasses import dataclass
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor

    @property
    def num_targets(self):
        return int((self.labels[:, 1:] != -100).sum())

    @property
    def num_tokens(self):
        return self.input_ids.numel()

    def to(self, device):
        return self
