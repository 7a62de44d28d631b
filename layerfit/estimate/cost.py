"""Bytes and FLOPs of one optimizer step under one plan, counted on the meta device.

Blocks of one kind (same parameters, same trained ones, gradient flowing further down or not) cost the same. So one
or two are traced together with everything outside the blocks, then once more with one block of each kind beside them;
the difference is the cost of every block of that kind. The result equals a trace of all blocks, in a fraction of its
time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerfit.estimate.subject import PlanShape, Subject
from layerfit.methods.base import Plan

if TYPE_CHECKING:
    from layerfit.estimate.trace import Trace


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch: rows of `length` tokens, padding included; columns: positions whose logits are computed."""

    rows: int
    length: int
    columns: int


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one GPU by component, counted as in a record (`layerfit.run.measure`); buffers count as weights."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Flops:
    """FLOPs of one token: of the forward pass, and of a training step."""

    forward: float
    step: float


@dataclass
class Tracer:
    """A cache of traces, shared by rows and seeds."""

    known: dict[Any, Trace] = field(default_factory=dict)

    def whole(self, subject: Subject, plan: PlanShape, shape: MicroBatch, *, checkpointing: bool) -> Trace:
        """Return the trace of one micro-batch through all blocks."""
        from layerfit.estimate.trace import Trace

        kinds = plan.kinds
        lowest = next((i for i, kind in enumerate(kinds) if any(trains for _, _, trains in kind)), 0)
        # These two stay in every trace: below the lowest that trains no gradient flows, above it one does, as in the
        # whole model; and what all blocks share (rotary positions, a mask) is saved by the last one if by any.
        stay = sorted({lowest, len(kinds) - 1})
        others = Counter(kinds) - Counter(kinds[i] for i in stay)
        if len(stay) + len(others) * (len(stay) + 1) >= len(kinds):  # so many kinds that all blocks are fewer
            return self.part(subject, plan, range(len(kinds)), shape, checkpointing=checkpointing)
        few = self.part(subject, plan, stay, shape, checkpointing=checkpointing)
        kept, largest, forward, step = few.kept, few.largest, few.forward, few.step
        for kind, number in others.items():
            more = self.part(subject, plan, sorted([*stay, kinds.index(kind)]), shape, checkpointing=checkpointing)
            kept += number * (more.kept - few.kept)
            largest = max(largest, more.largest)
            forward += number * (more.forward - few.forward)
            step += number * (more.step - few.step)
        return Trace(kept, largest, forward, step)

    def part(
        self, subject: Subject, plan: PlanShape, chosen: Iterable[int], shape: MicroBatch, *, checkpointing: bool
    ) -> Trace:
        """Return the trace of one micro-batch through some of the blocks."""
        indices = list(chosen)
        key = (subject.identity, tuple(plan.kinds[i] for i in indices), plan.outside, shape, checkpointing)
        if key not in self.known:
            self.known[key] = _traced(subject, plan, indices, shape, checkpointing=checkpointing)
        return self.known[key]


def _traced(subject: Subject, plan: PlanShape, chosen: list[int], shape: MicroBatch, *, checkpointing: bool) -> Trace:
    from layerfit.engines.trainable import freeze_to
    from layerfit.estimate.trace import empty_batch, only, trace
    from layerfit.models.architecture import checkpoint_activations

    model, anatomy = subject.model, subject.anatomy
    freeze_to(model, set(plan.trained))
    model.train()
    if checkpointing:
        checkpoint_activations(model)
    linear: Any = None
    if subject.run.engine.stage == 3:  # saves the input of a frozen module too
        from deepspeed.runtime.zero.linear import zero3_linear_wrap

        linear = zero3_linear_wrap
    try:
        path = next(name for name, _ in model.named_modules() if anatomy.canonical(name) == anatomy.blocks)
        with only(model, path, chosen) as blocks:
            batch = empty_batch(shape.rows, shape.length, packed=subject.run.training.packing)
            return trace(model, blocks, batch, columns=shape.columns, penalty=subject.method.penalty, linear=linear)
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()  # type: ignore[operator]


def memory(subject: Subject, plan: Plan, shape: MicroBatch, tracer: Tracer) -> StepMemory:
    """Return the bytes that training holds on each GPU under a plan, without the temporaries of single operators.

    With activation checkpointing, they include the block that backward recomputes.
    """
    from layerfit.estimate.held import buffer_bytes

    found = recorded_memory(subject, plan, shape, tracer)
    again = 0.0
    if subject.run.training.activation_checkpointing:
        again = tracer.whole(subject, subject.shape_of(plan), shape, checkpointing=False).largest
    return StepMemory(
        found.weights + buffer_bytes(subject), found.gradients, found.optimizer, found.activations + again
    )


def recorded_memory(subject: Subject, plan: Plan, shape: MicroBatch, tracer: Tracer) -> StepMemory:
    """Return the bytes that a record counts: parameters without buffers, and activations after the forward pass.

    Unlike a record at ZeRO-3, it does not count gathered weights as activations.
    """
    from layerfit.estimate.held import engine_over, gradient_bytes, optimizer_bytes, parameter_bytes

    engine, ranks, stage = engine_over(subject, plan), subject.run.engine.ranks, subject.run.engine.stage or 0
    checkpointing = subject.run.training.activation_checkpointing
    found = StepMemory(
        weights=parameter_bytes(subject) / (ranks if stage == 3 else 1),
        gradients=gradient_bytes(engine) / (ranks if stage >= 2 else 1),
        optimizer=optimizer_bytes(engine, stage, ranks),
        activations=tracer.whole(subject, subject.shape_of(plan), shape, checkpointing=checkpointing).kept,
    )
    engine.close()
    return found


def flops(subject: Subject, plan: Plan, shape: MicroBatch, tracer: Tracer) -> Flops:
    """Return the FLOPs of a token, in matrix products and attention, with the recomputation of checkpointing."""
    checkpointing = subject.run.training.activation_checkpointing
    found = tracer.whole(subject, subject.shape_of(plan), shape, checkpointing=checkpointing)
    tokens = shape.rows * shape.length
    return Flops(found.forward / tokens, found.step / tokens)
