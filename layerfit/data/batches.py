"""From examples to tensors, and which rows an optimizer step takes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from layerfit.data.tokenise import IGNORE
from layerfit.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from layerfit.data.tokenise import Example


@dataclass(frozen=True)
class Batch:
    """A micro-batch. B rows, T tokens each, padded on the right.

    input_ids: [B, T] int64. labels: [B, T] int64, the token at t if it is a target, else -100 (the loss shifts).
    attention_mask: [B, 1, T, T] bool, block-diagonal and causal, for packed rows, True = attends. None for padded
        rows: with causal attention no token attends to padding on the right, and the fast causal kernel can be used.
    position_ids: [B, T] int64, from 0 in every example.
    is_token: [B, T] bool, False at padding.
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor
    is_token: Tensor

    @property
    def num_targets(self) -> int:
        """Number of targets after the shift; the first token of a row is never one."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    @property
    def num_tokens(self) -> int:
        """Number of real tokens: padding excluded."""
        return int(self.is_token.sum())

    def model_inputs(self) -> dict[str, Tensor]:
        """Return the keyword arguments of the model's forward."""
        inputs = {"input_ids": self.input_ids, "position_ids": self.position_ids}
        return inputs if self.attention_mask is None else inputs | {"attention_mask": self.attention_mask}

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if value is not None
        }
        return replace(self, **moved)


def collate(rows: list[list[Example]], pad_id: int, *, packed: bool) -> Batch:
    """Return rows of examples as one batch, as long as its longest row.

    Args:
        rows: the examples of each row; one a row unless `packed`.
        pad_id: padding token; it is never a target.
        packed: whether rows hold several examples, which the attention mask then separates.
    """
    import torch

    shape = (len(rows), max(sum(len(x) for x in row) for row in rows))
    input_ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORE)
    position_ids = torch.arange(shape[1]).repeat(shape[0], 1)
    segment = torch.full(shape, -1)
    for number, row in enumerate(rows):
        assert packed or len(row) == 1
        start = 0
        for index, example in enumerate(row):
            span = slice(start, start + len(example))
            input_ids[number, span] = torch.from_numpy(example.ids).long()
            labels[number, span] = torch.from_numpy(example.labels).long()
            position_ids[number, span] = torch.arange(len(example))
            segment[number, span] = index
            start += len(example)
        position_ids[number, start:] = torch.arange(shape[1] - start) if packed else position_ids[number, start:]
    mask = block_diagonal(segment) if packed else None
    return Batch(input_ids, labels, mask, position_ids, segment >= 0)


def block_diagonal(segment: Tensor) -> Tensor:
    """Return the [B, 1, T, T] mask in which a token attends to itself and earlier tokens of its own segment [B, T].

    Padding is a segment too: the softmax of a token that attends to nothing would be NaN.
    """
    same = segment[:, :, None] == segment[:, None, :]
    return same.tril()[:, None]


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_rows: int) -> tuple[int, ...]:
    indices = list(range(num_rows))
    random.Random(f"order/{seed}/{epoch}").shuffle(indices)
    return tuple(indices)


def order(step: int, batch_size: int, num_rows: int, seed: int) -> list[int]:
    """Return the rows of optimizer step `step` (0-based), over all ranks: a new permutation every epoch.

    A pure function: a resumed run, or one on another number of ranks, sees the same rows. A step may span the end of
    one epoch and the start of the next.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [_permutation(seed, position // num_rows, num_rows)[position % num_rows] for position in positions]


def probe_indices(number: int, size: int, num_rows: int, seed: int) -> list[int]:
    """Return the rows of probe batch `number`: distinct rows, drawn anew for every number (a pure function).

    Raises:
        UserError: if there are fewer than `size` rows.
    """
    if size > num_rows:
        raise UserError(f"a probe batch of {size} rows cannot be drawn from {num_rows}; lower method.*_batch_size")
    return random.Random(f"probe/{seed}/{number}").sample(range(num_rows), size)


def steps_for_epochs(epochs: float, num_rows: int, batch_size: int) -> int:
    """Return the number of optimizer steps in some epochs, rounded up; at least 1."""
    return max(1, math.ceil(round(epochs * num_rows / batch_size, 9)))
