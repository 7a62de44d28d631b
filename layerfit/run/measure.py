"""The cost of a run: memory by component, time, energy. An unknown value is null, with the reason."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layerfit.engines.base import Engine
from layerfit.engines.phases import BACKWARD, FORWARD, PHASES, UPDATE
from layerfit.records.record import Measured
from layerfit.run.loop import Clock

PARTS = ("weights", "gradients", "optimizer", "activations", "allocated", "reserved")
"""The memory components of a record."""


@dataclass
class Memory:
    """Bytes on this rank. Allocator figures exist on a GPU only; the components are counted from the tensors."""

    peak: dict[str, int | None] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    energy_start: float | None = None
    energy_joules: float | None = None
    phase_seconds: dict[str, float] = field(default_factory=dict)

    def measured(
        self, clock: Clock, train_seconds: float, eval_seconds: float, switches: list[float], manifest: dict[str, Any]
    ) -> Measured:
        """Return the record's measurements."""
        seconds = sum(clock.steps)
        trained = bool(self.peak)
        if not trained:
            self.peak = dict.fromkeys(PARTS)
            self.unknown |= dict.fromkeys(PARTS, "nothing was trained")
        on_gpu = self.peak["allocated"] is not None
        unknown = dict(self.unknown)
        if not on_gpu:
            unknown["gpu_seconds"] = unknown["energy_joules"] = "no GPU was used" if trained else "nothing was trained"
        return Measured(
            train_seconds=train_seconds,
            eval_seconds=eval_seconds,
            tokens_per_s=clock.tokens / seconds if seconds else None,
            step_seconds_median=statistics.median(clock.steps) if clock.steps else None,
            switch_seconds=sum(switches) if switches else None,
            peak_memory_bytes=self.peak,
            gpu_seconds=train_seconds + eval_seconds if on_gpu else None,
            energy_joules=self.energy_joules,
            tokens_per_step=clock.tokens / len(clock.steps) if clock.steps else None,
            forward_seconds=self.phase_seconds.get(FORWARD),
            backward_seconds=self.phase_seconds.get(BACKWARD),
            update_seconds=self.phase_seconds.get(UPDATE),
            unknown=unknown,
            manifest=manifest,
        )


def _bytes(tensors: Iterator[Tensor] | list[Tensor]) -> int:
    """Return the bytes of the distinct storages behind some tensors."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values())


def _energy(device: torch.device, memory: Memory) -> float | None:
    """Return the joules a GPU has used since its driver started; None if it does not say, and why is in `memory`."""
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        memory.unknown["energy_joules"] = "pynvml is not installed (pip install nvidia-ml-py)"
        return None
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)) / 1000
    except pynvml.NVMLError as error:
        memory.unknown["energy_joules"] = f"the driver reports no energy: {error}"
        return None


@contextmanager
def watch_activations(engine: Engine, memory: Memory) -> Iterator[None]:
    """Count what autograd keeps for backward in the first optimizer step: bytes beyond the model's own tensors."""
    own = {p.untyped_storage().data_ptr() for p in engine.parameters.values()}
    memory.energy_start = _energy(engine.device, memory)
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
    seen: dict[int, int] = {}
    original = engine.take_step

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def first_step(batches: list[Any], num_targets: int, lr: float) -> tuple[float, float]:
        engine.take_step = original  # type: ignore[method-assign]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = original(batches, num_targets, lr)
        memory.peak["activations"] = sum(seen.values()) // len(batches)
        return out

    engine.take_step = first_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        engine.take_step = original  # type: ignore[method-assign]


def phases_of(engine: Engine, memory: Memory) -> None:
    """Fill in the median seconds of forward, backward and update, or why there are none.

    The first step of this process is left out: it allocates, compiles, and is watched for activations.
    """
    counted = engine.phases.steps[1:]
    if counted:
        memory.phase_seconds = {phase: statistics.median(step[phase] for step in counted) for phase in PHASES}
        return
    why = (
        "fewer than two steps were taken in this process"
        if engine.phases.on
        else "training.time_phases=true measures it"
    )
    memory.unknown |= {f"{phase}_seconds": why for phase in PHASES}


def optimizer_bytes(engine: Engine) -> int:
    """Return the bytes of optimizer state and masters on this rank."""
    states = engine.optimizer_object().state.values()
    return _bytes([v for s in states for v in s.values() if isinstance(v, Tensor)] + engine.flat_copies())


def memory_of(engine: Engine, memory: Memory) -> None:
    """Fill in the components at the end of training."""
    weights = [getattr(p, "ds_tensor", p) for p in engine.parameters.values()]
    sharded = engine.world if getattr(engine, "stage", 0) in (2, 3) else 1
    active = [engine.parameters[n] for n in engine.active]
    memory.peak["weights"] = _bytes(weights)
    memory.peak["gradients"] = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in active) // sharded
    memory.peak["optimizer"] = optimizer_bytes(engine)
    memory.peak.setdefault("activations", None)
    if engine.device.type == "cuda":
        memory.peak["allocated"] = torch.cuda.max_memory_allocated(engine.device)
        memory.peak["reserved"] = torch.cuda.max_memory_reserved(engine.device)
        end = _energy(engine.device, memory)
        if memory.energy_start is not None and end is not None:
            memory.energy_joules = end - memory.energy_start
    else:
        memory.peak["allocated"] = memory.peak["reserved"] = None
        memory.unknown["allocated"] = memory.unknown["reserved"] = "the CPU allocator keeps no statistics"
    if memory.peak["activations"] is None:
        memory.unknown["activations"] = "no step was taken in this process"
