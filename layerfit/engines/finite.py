"""Whether weights are finite: looked at once, after the last step. Losses and norms pass `layerfit.errors.finite`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layerfit.engines.base import Engine
from layerfit.errors import Diverged


@torch.no_grad()
def not_finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Return, for every tensor, whether one of its numbers is NaN or infinite; one wait for the device."""
    # The extremes are NaN if any number is, and need no tensor of flags beside a large matrix.
    full = [tensor for tensor in tensors if tensor.numel()]
    if not full:
        return [False] * len(tensors)
    extremes = torch.stack([torch.stack(torch.aminmax(t.detach())).float().to(full[0].device) for t in full])
    found = iter((~torch.isfinite(extremes).all(dim=1)).tolist())
    return [bool(tensor.numel()) and next(found) for tensor in tensors]


def check_weights(engine: Engine) -> None:
    """Check every weight that could train, each rank its share; every rank must call.

    Raises:
        Diverged: if one is not finite, on every rank, naming the first.
    """
    names = sorted(engine.among)
    own = not_finite([getattr(engine.parameters[name], "ds_tensor", engine.parameters[name]) for name in names])
    bad = [name for name, count in zip(names, engine.all_sum([float(flag) for flag in own]), strict=True) if count]
    if bad:
        raise Diverged(f"the weight {bad[0]} ({len(bad)} of {len(names)} that train) is not finite")
