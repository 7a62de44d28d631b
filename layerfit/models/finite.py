"""Whether the weights of a model are numbers."""

from __future__ import annotations

import torch
from torch import nn


def first_not_finite(module: nn.Module) -> str | None:
    """Return the name of the first parameter that holds NaN or an infinite number, None if all are finite.

    One reduction a tensor, and one wait for the device. The largest magnitude is NaN where a number is, and unlike
    `isfinite` it needs no memory of the tensor's size.
    """
    named = [(name, p.detach()) for name, p in module.named_parameters() if p.is_floating_point() and p.numel()]
    named = [(name, tensor) for name, tensor in named if not tensor.is_meta]
    if not named:
        return None
    largest = torch.stack([torch.linalg.vector_norm(tensor, ord=float("inf")).float() for _, tensor in named])
    finite = torch.isfinite(largest).tolist()
    return next((name for (name, _), good in zip(named, finite, strict=True) if not good), None)
