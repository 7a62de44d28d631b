"""The cost of a run: memory by component, time, energy. An unknown value is null, with the reason."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from layerfit.data.batches import Batch
from layerfit.engines.base import Engine
from layerfit.engines.phases import BACKWARD, FORWARD, PHASES, UPDATE
from layerfit.methods.base import Plan
from layerfit.records.record import Measured
from layerfit.run.loop import Clock

PARTS = ("weights", "gradients", "optimizer", "activations", "allocated", "reserved")
"""The memory components of a record."""
EVERY_STEP = "every step"
"""The steps that recorded activations are the largest of; records of before have those of the first step."""


@dataclass
class Memory:
    """Bytes on this rank. Allocator figures exist on a GPU only; the components are counted from the tensors."""

    peak: dict[str, int | None] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    energy_start: float | None = None
    energy_joules: float | None = None
    phase_seconds: dict[str, float] = field(default_factory=dict)
    watched: set[int] = field(default_factory=set)
    """Steps of this process, from 0, whose activations were counted, which takes time: medians leave them out."""

    def undisturbed(self, steps: list[Any]) -> list[Any]:
        """Return the steps that were not watched; all but the first if none is left (every step had a new plan)."""
        return [one for i, one in enumerate(steps) if i and i not in self.watched] or steps[1:]

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
            step_seconds_median=statistics.median(self.undisturbed(clock.steps) or clock.steps) if seconds else None,
            switch_seconds=sum(switches) if switches else None,
            peak_memory_bytes=self.peak,
            activations_over=EVERY_STEP if self.peak.get("activations") is not None else None,
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


@dataclass
class Kept:
    """What autograd keeps for backward, in bytes beyond the model's own tensors: the largest micro-batch of a step."""

    own: set[int]
    """Addresses of the model's own storages."""
    seen: dict[int, int] = field(default_factory=dict)
    """Bytes by address, of the micro-batch under way."""
    largest: int = 0

    def begin(self, *_: Any) -> None:
        """Begin a micro-batch: what the one before has kept is freed, and its addresses are used again."""
        self.largest, self.seen = max(self.largest, sum(self.seen.values())), {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept; a storage counts once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.seen[storage.data_ptr()] = storage.nbytes()
        return tensor


@dataclass
class Largest:
    """The largest micro-batches so far under a plan: positions, and positions that predict (rows x columns of logits).

    A step can only keep more than those before it under its plan if one of the two is larger.
    """

    positions: int = 0
    logits: int = 0

    def grows(self, batches: list[Batch]) -> bool:
        """Return whether a step's micro-batches are larger than all before; take note of them."""
        ids = [batch.input_ids.shape for batch in batches]
        positions = max(rows * length for rows, length in ids)
        columns = [int((batch.labels[:, 1:] != -100).any(dim=0).sum()) for batch in batches]
        logits = max(rows * number for (rows, _), number in zip(ids, columns, strict=True))
        larger = positions > self.positions or logits > self.logits
        self.positions, self.logits = max(positions, self.positions), max(logits, self.logits)
        return larger


@contextmanager
def watch_activations(engine: Engine, memory: Memory) -> Iterator[None]:
    """Take the maximum, over the steps of this process, of what autograd keeps for backward on this rank.

    Counted are the steps that can be the largest: the first under every plan (the same units in another draw are the
    same plan), and each with more positions or more logits in a micro-batch than those before it under its plan. A
    resumed run counts its own steps. Of a step it is the largest micro-batch. Nothing is counted twice, so a run
    whose plan stays counts about as many steps as a sequence of random lengths has records: 6 of the first 200.
    """
    memory.energy_start = _energy(engine.device, memory)
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
    under: dict[Plan, Largest] = {}
    number = count()
    original = engine.take_step

    def step(batches: list[Batch], num_targets: int, lr: float) -> tuple[float, float]:
        now = next(number)
        assert engine.plan is not None
        if not under.setdefault(replace(engine.plan, draw=0), Largest()).grows(batches):
            return original(batches, num_targets, lr)
        # Now: a new optimizer of ZeRO moves the weights, which would count as activations.
        kept = Kept({p.untyped_storage().data_ptr() for p in engine.parameters.values()})
        handle = engine.module.register_forward_pre_hook(kept.begin)
        try:
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                out = original(batches, num_targets, lr)
        finally:
            handle.remove()
        kept.begin()
        memory.peak["activations"] = max(kept.largest, memory.peak.get("activations") or 0)
        memory.watched.add(now)
        return out

    engine.take_step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        engine.take_step = original  # type: ignore[method-assign]


def phases_of(engine: Engine, memory: Memory) -> None:
    """Fill in the median seconds of forward, backward and update, or why there are none.

    The first step of this process is left out, as it allocates and compiles, and steps watched for activations.
    """
    counted = memory.undisturbed(engine.phases.steps)
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
