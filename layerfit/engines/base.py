"""The parts common to all engines: following plans, carrying optimizer state, computing the loss."""

from __future__ import annotations

import math
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layerfit.adapters.peft import scaled_responses
from layerfit.anatomy import Anatomy
from layerfit.config.schema import OptimConfig
from layerfit.data.batches import Batch
from layerfit.engines.groups import full_shape, group_key, optimizer_groups
from layerfit.engines.loss import loss_sum
from layerfit.engines.phases import Phases
from layerfit.engines.trainable import freeze_to, planned, trainable
from layerfit.errors import finite
from layerfit.methods.base import REBUILD, SKIP, STATIC, Method, Plan

State = dict[str, Tensor]
"""Optimizer state of one parameter, at full size: step, exp_avg, exp_avg_sq, master if kept, and
further tensors of the method's optimizer."""


@dataclass(frozen=True)
class StepStats:
    """One optimizer step. loss: nats per target token, over all ranks; tokens: real tokens, over all ranks."""

    loss: float
    grad_norm: float
    tokens: int


def set_seed(*parts: object) -> None:
    """Seed torch (adapter init, dropout) from the parts, so that a resumed run draws as an uninterrupted one."""
    torch.manual_seed(zlib.crc32("/".join(map(str, parts)).encode()))


class Engine(ABC):
    """Follows plans and takes optimizer steps; subclasses own the optimizer.

    Args:
        model: the adapted model, on its device and in its dtype.
        anatomy: the module paths of the model.
        method: the fine-tuning method.
        num_steps: optimizer steps of the run.
        optim: AdamW's settings.
        micro_batches: micro-batches per optimizer step and rank.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        method: Method,
        optim: OptimConfig,
        *,
        num_steps: int,
        micro_batches: int,
    ) -> None:
        # from_pretrained returns a model in eval mode, in which dropout and activation checkpointing are off.
        self.module = model.train()
        self.anatomy, self.method, self.optim, self.micro_batches = anatomy, method, optim, micro_batches
        self.optimizer_spec = method.optimizer(anatomy.shape(num_steps))
        self.among = trainable(model)
        self.parameters = dict(model.named_parameters())
        self.plan: Plan | None = None
        self.active: set[str] = set()
        self.ever: set[str] = set()
        """Every parameter that has been in a plan."""
        self.parked: dict[str, Tensor] = {}
        """fp32 masters, in host memory, of parameters outside the plan (masters=carry)."""
        self.switch_seconds: list[float] = []
        self.phases = Phases(self.device)

    # Properties.

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world(self) -> int:
        """Number of ranks."""
        return dist.get_world_size() if dist.is_initialized() else 1

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(iter(self.parameters.values())).device

    @property
    def keeps_masters(self) -> bool:
        """True if bf16 weights are updated through fp32 masters."""
        low = any(p.dtype != torch.float32 for n, p in self.parameters.items() if n in self.among)
        return low and self.optim.precision == "mixed"

    # For subclasses.

    @abstractmethod
    def build_optimizer(self, groups: list[dict[str, Any]]) -> None:
        """Replace the optimizer by a new one over `groups`, and free the memory of the old one."""

    @abstractmethod
    def take_step(self, batches: list[Batch], num_targets: int, lr: float) -> tuple[float, float]:
        """Take one optimizer step; return this rank's summed loss and the gradient norm over all ranks.

        A step whose norm is not finite is not taken: no optimizer meets such a gradient.
        """

    @abstractmethod
    def optimizer_object(self) -> Any:
        """Return the optimizer whose groups the plan switches."""

    def flat_copies(self) -> list[Tensor]:
        """Return the weight copies that the engine's optimizer updates instead of the weights, without its state."""
        return []

    @abstractmethod
    def read_state(self, name: str) -> State:
        """Return the optimizer state of an active parameter at full size; every rank must call."""

    @abstractmethod
    def write_state(self, name: str, state: State) -> None:
        """Set the optimizer state of an active parameter; every rank must call."""

    @abstractmethod
    def read_weight(self, name: str) -> Tensor:
        """Return a parameter at full size, on the CPU; every rank must call."""

    @abstractmethod
    def write_weight(self, name: str, value: Tensor) -> None:
        """Set a parameter; every rank must call."""

    @abstractmethod
    def close(self) -> None:
        """Release the optimizer; the module stays usable."""

    def num_trained(self) -> int:
        """Return the number of parameters that have been in a plan, at full size."""
        return sum(math.prod(full_shape(self.parameters[name])) for name in self.ever)

    # Following plans.

    def use(self, plan: Plan) -> bool:
        """Switch to `plan` for the next step; return whether anything changed.

        Raises:
            ValueError: if the plan names units that the model does not have, or trains no parameter.
        """
        if plan == self.plan:
            return False
        names = planned(self.parameters, self.anatomy, plan, self.among)
        if not names:
            raise ValueError("the plan trains no parameter")
        start = time.perf_counter()
        if self.method.switching == SKIP:
            self._skip_to(names)
        else:
            assert self.plan is None or self.method.switching == REBUILD, f"{STATIC} plans do not change"
            self._rebuild(names)
        if self.plan is not None:
            self.switch_seconds.append(time.perf_counter() - start)
        self.plan = plan
        self.ever |= names
        return True

    def _skip_to(self, names: set[str]) -> None:
        if self.plan is None:
            freeze_to(self.module, self.among)
            self.build_optimizer(self._groups(self.among))
        # `active` stops moments and decay; `freeze_to` below stops backward at the lowest planned unit.
        keys = {group_key(name, self.anatomy) for name in names}
        for group in self.optimizer_object().param_groups:
            group["active"] = group["key"] in keys
        freeze_to(self.module, names)
        self.active = names

    def _rebuild(self, names: set[str]) -> None:
        policy = self.method.switch_policy()
        kept = {n: self.read_state(n) for n in sorted(self.active & names)} if policy.moments == "keep" else {}
        if self.keeps_masters and policy.masters == "carry":
            for name in sorted(self.active - set(kept)):
                self.parked[name] = self.read_state(name)["master"].cpu()
        freeze_to(self.module, names)
        self.build_optimizer(self._groups(names))
        self.active = names
        for name, state in kept.items():
            self.write_state(name, state)
        for name in sorted(set(self.parked) & names):
            self.write_state(name, {"master": self.parked.pop(name)})

    def _groups(self, names: set[str]) -> list[dict[str, Any]]:
        named = [(n, self.parameters[n]) for n in self.parameters if n in names]
        options, by_block = self.optimizer_spec.options, self.method.switching != STATIC
        return optimizer_groups(named, self.anatomy, options, self.optim.weight_decay, by_block=by_block)

    # Steps and losses.

    def step(self, batches: list[Batch], lr: float) -> StepStats:
        """Take one optimizer step on this rank's micro-batches.

        The loss is summed over target tokens and divided by their number over all micro-batches and ranks.

        Raises:
            Diverged: if the loss or the gradient norm is not finite, on every rank; a step never passes untaken.
        """
        # With a mean of micro-batch means, the loss would depend on packing, micro-batch size and number of ranks.
        targets, tokens = self.all_sum([sum(b.num_targets for b in batches), sum(b.num_tokens for b in batches)])
        self.phases.begin()
        total, norm = self.take_step(batches, int(targets), lr)
        loss = finite("loss", self.all_sum([total])[0] / targets)
        return StepStats(loss, finite("gradient norm", norm), int(tokens))

    def penalty(self, micro_batch: int) -> Tensor | float:
        """Return the penalty to add to the loss of a micro-batch: that of the method for the first, else 0."""
        # Gradients of micro-batches are summed and those of ranks averaged, so the penalty counts once.
        penalty = self.method.penalty(self.module) if micro_batch == 0 else None
        return 0.0 if penalty is None else penalty

    def all_sum(self, values: list[float]) -> list[float]:
        """Return the sums over all ranks."""
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(v) for v in total]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on at least one rank."""
        return self.all_sum([float(flag)])[0] > 0

    def agree(self, value: int) -> bool:
        """Return whether a number is the same on every rank."""
        total, squares = self.all_sum([value, value * value])  # equal if and only if their variance is zero
        return self.world * squares == total * total

    @contextmanager
    def _evaluating(self, requires_grad: set[str]) -> Iterator[None]:
        """Evaluation mode, in which only `requires_grad` require gradients; both are restored on exit."""
        before = trainable(self.module)
        self.module.eval()
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in requires_grad)
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.requires_grad_(name in before)
            self.module.train()

    @torch.no_grad()
    def mean_loss(
        self, batches: list[Batch], scales: Mapping[str, float] | None = None, what: str = "probe loss"
    ) -> float:
        """Return nats per target token over all ranks' batches, adapter responses scaled by unit.

        Raises:
            Diverged: if it is not finite, on every rank. what: its name in the message.
        """
        with self._evaluating(set()), scaled_responses(self.module, self.anatomy, scales or {}):
            totals = [(float(loss_sum(self.module, b.to(self.device))), b.num_targets) for b in batches]
        loss, targets = self.all_sum([sum(t[0] for t in totals), sum(t[1] for t in totals)])
        return finite(what, loss / targets)

    def response_gradient(self, batches: list[Batch], scales: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """Return the loss of `mean_loss` and its derivative with respect to every factor in `scales`.

        Raises:
            Diverged: if one of them is not finite, on every rank.
        """
        factors = {u: torch.tensor(s, device=self.device, requires_grad=True) for u, s in scales.items()}
        targets = self.all_sum([sum(b.num_targets for b in batches)])[0]
        total = 0.0
        with self._evaluating(set()), scaled_responses(self.module, self.anatomy, factors):
            for batch in batches:
                loss = loss_sum(self.module, batch.to(self.device)) / targets
                loss.backward()
                total += float(loss)
        grads = [0.0 if f.grad is None else float(f.grad) for f in factors.values()]
        mean, *derivatives = self.all_sum([total, *grads])
        finite("probe loss", mean)
        return mean, {u: finite("gradient of a probe", d) for u, d in zip(factors, derivatives, strict=True)}

    # Checkpoints: full-size tensors, so that they do not depend on the engine or the number of ranks.

    def state_dict(self) -> dict[str, Any]:
        """Return weights and optimizer state; every rank must call, rank 0 saves."""
        assert self.plan is not None
        inactive = self.method.switching == SKIP
        stated = sorted(self.among if inactive else self.active)
        plan = self.plan
        return {
            "plan": [sorted(plan.units), list(plan.always), sorted(plan.frozen), plan.draw],
            "weights": {name: self.read_weight(name) for name in sorted(self.among)},
            "states": {name: {k: v.cpu() for k, v in self.read_state(name).items()} for name in stated},
            "parked": dict(self.parked),
            "ever": sorted(self.ever),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore `state_dict`: weights first, then the plan, then optimizer state."""
        for name, value in saved["weights"].items():
            self.write_weight(name, value)
        units, always, frozen, draw = saved["plan"]
        self.use(Plan(frozenset(units), tuple(always), frozenset(frozen), draw))
        for name, state in saved["states"].items():
            self.write_state(name, state)
        self.parked, self.ever = dict(saved["parked"]), set(saved["ever"])
        self.switch_seconds.clear()
