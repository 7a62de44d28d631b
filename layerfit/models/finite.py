"""Whether weights are numbers: of a model that arrives, and of one that was trained (`layerfit.engines.finite`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def not_finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Return, for every tensor, whether one of its numbers is NaN or infinite.

    One reduction a tensor, and one wait for the device. The largest magnitude is NaN where a number is, and unlike
    `isfinite` it needs no memory of the tensor's size.
    """
    full = [tensor.detach() for tensor in tensors if tensor.numel()]
    if not full:
        return [False] * len(tensors)
    norms = [torch.linalg.vector_norm(tensor, ord=float("inf")).float().to(full[0].device) for tensor in full]
    found = iter((~torch.isfinite(torch.stack(norms))).tolist())
    return [bool(tensor.numel()) and next(found) for tensor in tensors]


def first_not_finite(module: nn.Module) -> str | None:
    """Return the name of the first parameter that holds NaN or an infinite number, None if all are finite."""
    named = [(name, p) for name, p in module.named_parameters() if p.is_floating_point() and not p.is_meta]
    bad = not_finite([tensor for _, tensor in named])
    return next((name for (name, _), flag in zip(named, bad, strict=True) if flag), None)
