"""AdamW with fp32 masters for bf16 weights, and groups that can be inactive in a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

CHUNK = 1 << 26
"""Elements updated at once with masters; bounds the fp32 copy of the gradients (256 MiB)."""


class AdamW(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) by torch's fused kernel.

    `gradient_scale` multiplies every gradient, in the precision of the update: clipping a bf16 gradient in place would
    round it once more. Group options beyond torch's: `active` (False = the step skips the group: no change of weights,
    moments or step count) and `masters` (True = bf16 parameters are updated through an fp32 copy).
    State, per parameter: `exp_avg`, `exp_avg_sq`, `step` and, with masters, `master`.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        masters: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "masters": masters, "active": True})
        self.gradient_scale = 1.0

    def allocate(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a parameter; if there is none, create zeros (and the master)."""
        state = self.state[param]
        if "step" not in state:
            if group["masters"] and param.dtype != torch.float32:
                state["master"] = param.detach().float().clone()
            like = state.get("master", param)
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            state["exp_avg"] = torch.zeros_like(like)
            state["exp_avg_sq"] = torch.zeros_like(like)
        return state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter with a gradient in the active groups."""
        for group in self.param_groups:
            if not group["active"]:
                continue
            chunk: list[Tensor] = []
            size = 0
            for param in group["params"]:
                if param.grad is None:
                    continue
                chunk.append(param)
                size += param.numel() if group["masters"] and param.dtype != torch.float32 else 0
                if size >= CHUNK:
                    self._update(group, chunk)
                    chunk, size = [], 0
            if chunk:
                self._update(group, chunk)

    def gradient(self, param: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the scaled gradient in the dtype of the update; may overwrite `param.grad`."""
        assert param.grad is not None
        grad = param.grad.to(dtype)
        return grad if self.gradient_scale == 1.0 else grad.mul_(self.gradient_scale)

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        states = [self.allocate(p, group) for p in params]
        targets = [s.get("master", p) for s, p in zip(states, params, strict=True)]
        grads = [self.gradient(p, t.dtype) for p, t in zip(params, targets, strict=True)]
        adamw(
            targets,
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        write_back(params, targets)


def write_back(params: list[Tensor], targets: list[Tensor]) -> None:
    """Copy masters into their weights, rounding to the weights' dtype."""
    for param, target in zip(params, targets, strict=True):
        if target is not param:
            param.copy_(target)
