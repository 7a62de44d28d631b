"""AdaLoRA's rank allocation, behind AdamW's step (arXiv:2303.10512, section 3.2 and Algorithm 1; the rules of PEFT).

An adapter is B diag(E) A with r triplets: a row of A [r, in], a value of E [r, 1], a column of B [out, r]. After an
update, with the step's gradient still there, I = |w dL/dw| of every weight enters two running means, Ibar and
Ubar = mean |I - Ibar|; a triplet scores Ibar Ubar of its value plus the mean of Ibar Ubar over its row and over its
column (Eq. 8 to 11). The triplets of all modules compete: values beyond the budget are set to zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layerfit.optimizers.adamw import AdamW, write_back

RIGHT, VALUES, LEFT = "right", "values", "left"
"""A, E and B."""


def budget(step: int, *, initial: int, target: int, warmup: int, end: int) -> int:
    """Return how many triplets may stay after optimizer step `step`: all, then a cubic descent, then the target.

    Eq. 12; rounded down. end: the step that takes the last choice.
    """
    if step <= warmup:
        return initial
    left = max(0.0, 1 - (step - warmup) / (end - warmup))
    return int((initial - target) * left**3 + target)


class RankAdamW(AdamW):
    """AdamW that chooses ranks. Groups with a `role` are the three sides of adapters, in the same order of modules.

    State beyond AdamW's: `sensitivity` and `uncertainty` (fp32), and of values `kept`, the last choice.
    Like the moments they are tensors of a parameter, so a checkpoint holds them.
    """

    def allocate(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """As AdamW, with the running means of a side."""
        state = super().allocate(param, group)
        if "role" in group and "sensitivity" not in state:
            for key in ("sensitivity", "uncertainty"):
                state[key] = torch.zeros_like(param, dtype=torch.float32)
            if group["role"] == VALUES:
                state["kept"] = torch.ones_like(param, dtype=torch.bool)
        return state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter, then the ranks."""
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
        """Take a weight, after its update, and its gradient, as clipped, into the running means."""
        assert param.grad is not None
        state = self.state[param]
        target = state.get("master", param)
        grad = param.grad.float()
        if target is not param:  # the update scaled a copy of the gradient, not the gradient
            grad = grad * self.gradient_scale
        now = (target.float() * grad).abs()
        beta1, beta2 = group["beta_sensitivity"], group["beta_uncertainty"]
        state["sensitivity"].mul_(beta1).add_(now, alpha=1 - beta1)
        state["uncertainty"].mul_(beta2).add_((now - state["sensitivity"]).abs(), alpha=1 - beta2)

    def _score(self, param: Tensor) -> Tensor:
        return self.state[param]["sensitivity"] * self.state[param]["uncertainty"]

    def _choose(self, sides: dict[str, dict[str, Any]], step: int, end: int) -> None:
        """Keep the best triplets over all modules, as many as the budget allows; equals of the first lost go too."""
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
