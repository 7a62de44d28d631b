"""The reference engine: one process, plain torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from layerfit.data.batches import Batch
from layerfit.engines.base import Engine, State
from layerfit.engines.loss import loss_sum
from layerfit.engines.phases import BACKWARD, FORWARD, UPDATE


class TorchEngine(Engine):
    """One process, our optimizer, autograd: the reference for the DeepSpeed engines."""

    optimizer: Any = None

    def build_optimizer(self, groups: list[dict[str, Any]]) -> None:
        """Make a new optimizer, after freeing the old one."""
        self.optimizer = None
        self.optimizer = new_optimizer(self, groups)
        allocate_all(self.optimizer)

    def optimizer_object(self) -> Any:
        """Return the optimizer."""
        return self.optimizer

    def take_step(self, batches: list[Batch], num_targets: int, lr: float) -> tuple[float, float]:
        """Accumulate gradients, clip, step."""
        total = 0.0
        for i, batch in enumerate(b.to(self.device) for b in batches):
            with self.phases(FORWARD):
                loss = loss_sum(self.module, batch)
                objective = loss / num_targets + self.penalty(i)
            with self.phases(BACKWARD):
                objective.backward()
            total += float(loss.detach())
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.phases(UPDATE):
            norm = clip_gradients(self, self.optimizer, self.optim.clip)
            if math.isfinite(norm):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return total, norm

    def read_state(self, name: str) -> State:
        """Return a copy of the state; zeros if the parameter has not been updated."""
        return copy_state(self.optimizer, self.parameters[name])

    def write_state(self, name: str, state: State) -> None:
        """Set the state."""
        set_state(self.optimizer, self.parameters[name], state)

    def read_weight(self, name: str) -> Tensor:
        """Return a copy of the weight."""
        return self.parameters[name].detach().cpu().clone()

    def write_weight(self, name: str, value: Tensor) -> None:
        """Set the weight."""
        with torch.no_grad():
            self.parameters[name].copy_(value)

    def close(self) -> None:
        """Release the optimizer and all gradients."""
        self.optimizer = None
        for parameter in self.parameters.values():
            parameter.grad = None


def new_optimizer(engine: Engine, groups: list[dict[str, Any]]) -> Any:
    """Return the method's optimizer over `groups`."""
    optim = engine.optim
    return engine.optimizer_spec.kind(
        groups,  # type: ignore[arg-type]
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        masters=engine.keeps_masters,
    )


def allocate_all(optimizer: Any) -> None:
    """Allocate the state of every parameter now, so that memory does not depend on the blocks drawn so far."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.allocate(parameter, group)


def clip_gradients(engine: Engine, optimizer: Any, clip: float) -> float:
    """Set the optimizer's gradient scale for clipping to a norm (0 = only measure); return the unclipped norm."""
    grads = [g for n in sorted(engine.active) if (g := engine.parameters[n].grad) is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in grads]))
    optimizer.gradient_scale = min(1.0, clip / (float(norm) + 1e-6)) if clip > 0 else 1.0
    return float(norm)


def _group_of(optimizer: Any, parameter: Tensor) -> dict[str, Any]:
    return next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


def copy_state(optimizer: Any, parameter: Tensor) -> State:
    """Return a copy of a parameter's state."""
    state = optimizer.allocate(parameter, _group_of(optimizer, parameter))
    return {k: v.detach().clone() for k, v in state.items()}


def set_state(optimizer: Any, parameter: Tensor, state: State) -> None:
    """Set the given entries of a parameter's state; a master is also copied into the weight."""
    own = optimizer.allocate(parameter, _group_of(optimizer, parameter))
    for key, value in state.items():
        own[key] = value.detach().clone().to(parameter.device)
    if "master" in state:
        with torch.no_grad():
            parameter.copy_(own["master"])
