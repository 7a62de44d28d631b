"""GaLore's optimizer: Adam in a low-rank space of the gradient (arXiv:2403.03507, Algorithm 2).

As in the released code, the smaller side of a matrix is projected (`std`), moments are not rotated when the basis is
refreshed, and weight decay acts at full rank after the update. Here the state is tensors only, so it loads with
`torch.load(weights_only=True)`, and the basis can come from a randomised SVD.

Where epsilon stands (it matters where gradients are as small): in projected groups as in the released code, added
before the bias of the second moment is corrected; in the others as in `torch.optim.AdamW`, added after, so that what
is not projected is updated as under every other method.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from layerfit.optimizers.adamw import AdamW, write_back

OVERSAMPLING = 8
"""Extra directions of the randomised SVD (Halko, Martinsson & Tropp 2011, section 4.2: 5 to 10)."""


def basis(gradient: Tensor, *, rank: int, projection: str, seed: int) -> Tensor:
    """Return the leading singular directions of a gradient [m, n], in fp32.

    Shape [rank, n] if m >= n (rows span the row space), else [m, rank] (columns span the column space).
    """
    g = gradient.float()
    if projection == "randomized":
        with torch.random.fork_rng(devices=[g.device] if g.is_cuda else []):
            torch.manual_seed(seed)
            u, _, v = torch.svd_lowrank(g, q=min(rank + OVERSAMPLING, *g.shape), niter=2)
        left, right = u[:, :rank], v[:, :rank].T
    else:
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        left, right = u[:, :rank], vh[:rank]
    return (right if g.shape[0] >= g.shape[1] else left).contiguous()


def project(gradient: Tensor, q: Tensor) -> Tensor:
    """Return the gradient [m, n] in the low-rank space: [m, rank] or [rank, n]."""
    return gradient @ q.T if gradient.shape[0] >= gradient.shape[1] else q.T @ gradient


def project_back(low: Tensor, q: Tensor, shape: torch.Size) -> Tensor:
    """Return a low-rank update at full size, `shape` [m, n]."""
    return low @ q if shape[0] >= shape[1] else q @ low


class GaLoreAdamW(AdamW):
    """AdamW that updates groups with a `rank` in a low-rank space."""

    def allocate(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """As AdamW, but with moments of the projected shape, and the basis."""
        state = super().allocate(param, group)
        if "rank" not in group:
            return state
        m, n = param.shape
        low = (m, group["rank"]) if m >= n else (group["rank"], n)
        if "basis" not in state:
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = state[key].new_zeros(low)
            # Computed in the first step; allocated here, so that memory does not depend on the steps taken.
            state["basis"] = state["exp_avg"].new_zeros((group["rank"], n) if m >= n else (m, group["rank"]))
        return state

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        if "rank" not in group:
            super()._update(group, params)
            return
        for param in params:
            self._update_projected(group, param)

    def _update_projected(self, group: dict[str, Any], param: Tensor) -> None:
        state = self.allocate(param, group)
        target = state.get("master", param)
        grad = self.gradient(param, target.dtype)
        step = int(state["step"].item())
        if step % group["refresh_every"] == 0:
            found = basis(grad, rank=group["rank"], projection=group["projection"], seed=group["seed"] + step)
            state["basis"] = found.to(grad.dtype)
        low = project(grad, state["basis"])
        beta1, beta2 = group["betas"]
        state["step"] += 1
        state["exp_avg"].mul_(beta1).add_(low, alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(low, low, value=1 - beta2)
        denominator = state["exp_avg_sq"].sqrt().add_(group["eps"])
        size = group["lr"] * math.sqrt(1 - beta2 ** (step + 1)) / (1 - beta1 ** (step + 1))
        update = project_back(state["exp_avg"] / denominator, state["basis"], param.shape)
        target.add_(update, alpha=-size * group["scale"])
        if group["weight_decay"]:
            target.add_(target, alpha=-group["lr"] * group["weight_decay"])
        write_back([param], [target])
