"""DeepSpeed, ZeRO stages 0-3, with an optimizer that can be swapped inside the live engine.

DeepSpeed fixes the trainable set at `initialize`: parameters frozen later keep changing under ZeRO (momentum and decay
act on the flat buffer), parameters unfrozen later never train, and no memory is saved. So a switch builds a new
optimizer over the planned parameters. The swap uses private methods of deepspeed 0.19.8 (hence the exact pin); the
contract tests compare it with plain torch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from layerfit.anatomy import Anatomy
from layerfit.config.schema import EngineConfig, OptimConfig
from layerfit.data.batches import Batch
from layerfit.engines.base import Engine, State
from layerfit.engines.loss import loss_sum
from layerfit.engines.phases import BACKWARD, FORWARD, UPDATE
from layerfit.engines.torch import allocate_all, clip_gradients, copy_state, new_optimizer, set_state
from layerfit.methods.base import Method

MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroEngine(Engine):
    """DeepSpeed's engine. At stage 0 our own optimizer holds the state; at stages 1-3 DeepSpeed shards it."""

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        method: Method,
        optim: OptimConfig,
        *,
        num_steps: int,
        micro_batches: int,
        engine: EngineConfig,
    ) -> None:
        super().__init__(model, anatomy, method, optim, num_steps=num_steps, micro_batches=micro_batches)
        assert engine.stage is not None
        self.stage, self.offload = engine.stage, engine.offload
        self.deepspeed: Any = None
        largest = max(p.numel() for p in self.parameters.values())
        self.config = _config(self, largest)
        self.shapes = {name: p.shape for name, p in self.parameters.items()}

    def build_optimizer(self, groups: list[dict[str, Any]]) -> None:
        """Initialise DeepSpeed, or swap the optimizer inside it."""
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        if self.deepspeed is None:
            optimizer = new_optimizer(self, groups)
            self.deepspeed, *_ = deepspeed.initialize(model=self.module, optimizer=optimizer, config=self.config)
        else:
            self._release()
            self.deepspeed._configure_optimizer(new_optimizer(self, groups), None)
        self._allocate()

    def _release(self) -> None:
        """Free the optimizer and everything that refers to it."""
        if self.stage > 0:
            self.deepspeed.optimizer.destroy()
            self._remove_backward_functions()
            self._own_storage()
        self.deepspeed.optimizer = self.deepspeed.basic_optimizer = self.deepspeed.client_optimizer = None

    def _remove_backward_functions(self) -> None:
        """Remove the functions that ZeRO-3 runs before and after each module's backward."""
        # destroy() leaves them and a new optimizer reuses them. They keep the old optimizer in memory and gather for
        # it, while forward gathers for the new one: a block recomputed in backward (activation checkpointing) would
        # find its parameters released.
        for module in self.module.modules():
            for name in ("pre_bwd_fn", "post_bwd_fn"):
                module.__dict__.pop(name, None)

    def _own_storage(self) -> None:
        """Copy weights out of the old optimizer's flat buffers, which could not be freed otherwise."""
        for parameter in self.parameters.values():
            if self.stage == 3:
                parameter.ds_tensor.data = parameter.ds_tensor.data.clone()  # type: ignore[attr-defined]
            else:
                parameter.data = parameter.data.clone()

    def optimizer_object(self) -> Any:
        """Return our optimizer, which DeepSpeed's wraps."""
        return self.deepspeed.basic_optimizer

    def flat_copies(self) -> list[Tensor]:
        """Return ZeRO's flat fp32 copies (bf16 with pure_bf16) of this rank's share of the weights."""
        if self.stage == 0:
            return []
        zero = self.deepspeed.optimizer
        return list(zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups)

    def take_step(self, batches: list[Batch], num_targets: int, lr: float) -> tuple[float, float]:
        """Accumulate and step; the loss is multiplied by the world size because DeepSpeed averages over ranks."""
        assert len(batches) == self.micro_batches
        for group in self.optimizer_object().param_groups:
            group["lr"] = lr
        total, norm = 0.0, 0.0
        for i, batch in enumerate(b.to(self.device) for b in batches):
            with self.phases(FORWARD):
                loss = loss_sum(self.deepspeed, batch)
                objective = loss * (self.world / num_targets) + self.penalty(i)
            with self.phases(BACKWARD):
                self.deepspeed.backward(objective, scale_wrt_gas=False)
            total += float(loss.detach())
            with self.phases(UPDATE):
                if self.stage == 0 and self.deepspeed.is_gradient_accumulation_boundary():
                    norm = clip_gradients(self, self.optimizer_object(), self.optim.clip)
                    if not math.isfinite(norm):
                        return total, norm
                self.deepspeed.step()
        return total, norm if self.stage == 0 else self._norm()

    def _norm(self) -> float:
        """Return the gradient norm of a step of ZeRO, infinity if DeepSpeed has skipped the step."""
        # Its norm of such a step has been -1, stale and infinite in turn from version to version.
        return math.inf if self.deepspeed.optimizer.overflow else float(self.deepspeed.get_global_grad_norm())

    def read_state(self, name: str) -> State:
        """Return the state at full size, gathered from the ranks."""
        parameter = self.parameters[name]
        if self.stage == 0:
            return copy_state(self.optimizer_object(), parameter)
        with _thawed(parameter):
            state = {key: _full(safe_get_full_optimizer_state(parameter, key)) for key in MOMENTS}
            state["step"] = self._flat_state(parameter)["step"].clone()
            if self.keeps_masters:
                state["master"] = _full(safe_get_full_fp32_param(parameter))
        return state

    def write_state(self, name: str, state: State) -> None:
        """Set the state; each rank keeps its shard."""
        parameter = self.parameters[name]
        if self.stage == 0:
            set_state(self.optimizer_object(), parameter, state)
            return
        with _thawed(parameter):
            for key in MOMENTS:
                if key in state:
                    safe_set_full_optimizer_state(parameter, state[key].to(self.device), key)
            if "step" in state:
                self._flat_state(parameter)["step"].copy_(state["step"])
            if "master" in state:
                safe_set_full_fp32_param(parameter, state["master"].to(self.device))
        if "master" in state:
            self.write_weight(name, state["master"])

    def _allocate(self) -> None:
        """Allocate the optimizer state and link it to the parameters."""
        # ZeRO does both in the first step, and links after the first group is stepped: with several groups, the state
        # of the others would never be linked.
        ours, zero = self.optimizer_object(), self.deepspeed.optimizer
        if self.stage == 0:
            allocate_all(ours)
        elif self.stage == 3:
            for i, flat in enumerate(zero.fp32_partitioned_groups_flat):
                ours.allocate(flat, ours.param_groups[zero.sub_group_to_group_id[i]])
        else:
            for group in ours.param_groups:
                for flat in group["params"]:
                    ours.allocate(flat, group)
            zero._lazy_init_hp_params_optimizer_state()

    def _flat_state(self, parameter: Tensor) -> dict[str, Any]:
        """Return the state of the flat tensor that contains a parameter."""
        ours, zero = self.optimizer_object(), self.deepspeed.optimizer
        if self.stage == 3:
            group, _, _ = zero.grad_position[zero.get_param_id(parameter)]
            return ours.state[zero.fp32_partitioned_groups_flat[group]]
        for i, group in enumerate(zero.bit16_groups):
            if any(p is parameter for p in group):
                return ours.state[zero.single_partition_of_fp32_groups[i]]
        raise AssertionError("parameter in no group")

    def read_weight(self, name: str) -> Tensor:
        """Return the weight at full size."""
        parameter = self.parameters[name]
        if self.stage < 3 or self.deepspeed is None:
            return parameter.detach().cpu().clone()
        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().cpu().clone()

    def write_weight(self, name: str, value: Tensor) -> None:
        """Set the weight; at stage 3 every rank keeps its shard."""
        parameter = self.parameters[name]
        with torch.no_grad():
            if self.stage < 3 or self.deepspeed is None:
                parameter.copy_(value)
                return
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.copy_(value)

    def close(self) -> None:
        """Release DeepSpeed. At stage 3 the module stays sharded: read its weights before."""
        if self.deepspeed is None:
            return
        self._release()
        engine, self.deepspeed = self.deepspeed, None
        for hook in ("module_forward_pre_hook", "module_forward_post_hook"):
            if getattr(engine, hook, None) is not None:  # destroy() leaves them, and they refer to the engine
                getattr(engine, hook).remove()
        for parameter in self.parameters.values():
            parameter.grad = None


@contextmanager
def _thawed(parameter: Tensor) -> Iterator[None]:
    """Make a parameter require gradients: ZeRO-3 gives state only for those, but a skipped one has state too."""
    before = parameter.requires_grad
    parameter.requires_grad_(True)
    try:
        yield
    finally:
        parameter.requires_grad_(before)


def _full(value: Tensor | None) -> Tensor:
    assert value is not None
    return value.detach().clone()


def _config(engine: ZeroEngine, largest: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration. Settings whose defaults have changed between versions are explicit."""
    stage = engine.stage
    zero: dict[str, Any] = {"stage": stage}
    if stage > 0:
        zero.update(reduce_bucket_size=max(largest, 1 << 20), overlap_comm=False, contiguous_gradients=True)
    if stage == 3:
        zero.update(stage3_param_persistence_threshold=0, stage3_prefetch_bucket_size=max(largest, 1 << 20))
    if engine.offload:
        zero.update(offload_optimizer={"device": "cpu"}, offload_param={"device": "cpu"})
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # only used in DeepSpeed's counters; we make the batches
        "gradient_accumulation_steps": engine.micro_batches,
        "gradient_clipping": engine.optim.clip if stage > 0 else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    low = any(p.dtype != torch.float32 for p in engine.parameters.values())
    if low and stage > 0:
        pure = engine.optim.precision == "pure_bf16"
        config["bf16"] = {"enabled": True, "check_grad_overflow": True} | (
            {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True} if pure else {}
        )
    return config
