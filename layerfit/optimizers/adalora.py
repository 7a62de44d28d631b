"""AdaLoRA's rank allocation, after each AdamW step (arXiv:2303.10512, section 3.2 and Algorithm 1; the rules of PEFT).

An adapter is B diag(E) A with r triplets: a row of A [r, in], a value of E [r, 1], a column of B [out, r]. From the
updated weight and the step's gradient, I = |w dL/dw| enters two running means, Ibar and Ubar = mean |I - Ibar|; the
score of a triplet is Ibar Ubar of its value plus the means of Ibar Ubar over its row and over its column (Eq. 8 to 11).
The triplets of all modules are ranked together: values beyond the budget are set to zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layerfit.optimizers.adamw import AdamW, write_back

RIGHT, VALUES, LEFT = "right", "values", "left"
"""A, E and B."""


def budget(step: int, *, initial: int, target: int, warmup: int, end: int) -> int:
    """Return the number of triplets kept after optimizer step `step`: all, then a cubic descent, then the target.

    Eq. 12; rounded down. end: the step of the last allocation.
    """
    if step <= warmup:
        return initial
    left = max(0.0, 1 - (step - warmup) / (end - warmup))
    return int((initial - target) * left**3 + target)


class RankAdamW(AdamW):
    """AdamW with rank allocation. Groups with a `role` hold A, E and B of the adapters, in the same order of modules.

    State beyond AdamW's: `sensitivity` and `uncertainty` (Ibar, Ubar; fp32), and for E `kept`, the last allocation.
    Like the moments they are tensors per parameter, so checkpoints include them.
    """

    def allocate(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """As AdamW, plus the running means of adapter parameters."""
        state = super().allocate(param, group)
        if "role" in group and "sensitivity" not in state:
            for key in ("sensitivity", "uncertainty"):
                state[key] = torch.zeros_like(param, dtype=torch.float32)
            if group["role"] == VALUES:
                state["kept"] = torch.ones_like(param, dtype=torch.bool)
        return state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter, then allocate ranks."""
        super().step()
        sides = {group["role"]: group for group in self.param_groups if "role" in group}
        values = sides[VALUES]
        step = int(self.state[values["params"][0]]["step"].item()) - 1
        end = values["num_steps"] - values["final"]
        if step < end:
            for group in sides.values():
                for param in group["params"]:
                    self._sense(group, param)
        due = step % values["allocate_every"] == 0 and values["warmup"] < step < end
        if due or step == end:
            self._choose(sides, step, end)
        if due or step >= end:
            for param in values["params"]:
                self._zero(param)

    def _sense(self, group: dict[str, Any], param: Tensor) -> None:
        """Update the running means from the updated weight and its clipped gradient."""
        assert param.grad is not None
        state = self.state[param]
        target = state.get("master", param)
        grad = param.grad.float()
        if target is not param:  # clipping scaled an fp32 copy of the gradient in the update, not the gradient itself
            grad = grad * self.gradient_scale
        now = (target.float() * grad).abs()
        beta1, beta2 = group["beta_sensitivity"], group["beta_uncertainty"]
        state["sensitivity"].mul_(beta1).add_(now, alpha=1 - beta1)
        state["uncertainty"].mul_(beta2).add_((now - state["sensitivity"]).abs(), alpha=1 - beta2)

    def _score(self, param: Tensor) -> Tensor:
        return self.state[param]["sensitivity"] * self.state[param]["uncertainty"]

    def _choose(self, sides: dict[str, dict[str, Any]], step: int, end: int) -> None:
        """Keep the best triplets of all modules, up to the budget; ties with the best dropped score are dropped too."""
        values = sides[VALUES]
        rows = [
            self._score(e).view(-1) + self._score(a).mean(dim=1) + self._score(b).mean(dim=0)
            for a, e, b in zip(*(sides[role]["params"] for role in (RIGHT, VALUES, LEFT)), strict=True)
        ]
        scores = torch.cat(rows)
        target = values["target_rank"] * len(rows)
        allowed = budget(step, initial=scores.numel(), target=target, warmup=values["warmup"], end=end)
        lost = scores.numel() - allowed
        bar = torch.kthvalue(scores, lost).values if lost else scores.new_tensor(-1.0)
        for param, row in zip(values["params"], rows, strict=True):
            self.state[param]["kept"].copy_((row > bar).view(-1, 1))

    def _zero(self, param: Tensor) -> None:
        state = self.state[param]
        target = state.get("master", param)
        target.masked_fill_(~state["kept"], 0.0)
        write_back([param], [target])
