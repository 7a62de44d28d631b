"""Bytes and FLOPs of one optimizer step under one plan.

FLOPs of a token: forward 2P over the matrices P that it meets, and attention, 4 T d for scores and values of T tokens,
half of it with a causal kernel. Backward: 2P for the gradient of an input, down to the lowest unit that trains; 2P for
the gradient of a weight, where it trains; attention twice, two and a half times with a kernel that makes its scores
again. Activation checkpointing adds the forward of the blocks that a gradient passes. A lookup costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from layerfit.anatomy import EMBEDDING, HEAD, NORM
from layerfit.estimate.shapes import linear_shapes
from layerfit.estimate.subject import Subject
from layerfit.estimate.walk import FP32, Walk
from layerfit.methods.base import SKIP

UNFUSED = ("bloom", "gptj")
"""Architectures whose attention makes the scores of all pairs of tokens."""


@dataclass(frozen=True)
class Shape:
    """A micro-batch: rows of `length` tokens, padding included; columns: positions whose logits are computed."""

    rows: int
    length: int
    columns: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, by component as a record counts them (`layerfit.run.measure`)."""

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
    """Of one token: forward alone, and all of a training step."""

    forward: float
    step: float


def walks(subject: Subject, trained: set[str], length: int) -> list[Walk]:
    """Walk all blocks from the lowest."""
    gradient = subject.part_trains(EMBEDDING, trained)
    each = _width(subject)
    out: list[Walk] = []
    packed, sharded = subject.run.training.packing, subject.run.engine.stage == 3
    for index in range(subject.sizes.num_layers):
        walk = Walk(subject.sizes, subject.block(index, trained), each, length, gradient, packed, sharded).run()
        gradient = walk.gradient
        out.append(walk)
    return out


def _width(subject: Subject) -> int:
    return FP32 if subject.run.training.dtype == "fp32" else 2


def memory(subject: Subject, trained: set[str], shape: Shape, *, recomputing: bool = True) -> Memory:
    """Return the bytes that training holds on each GPU under a plan; no temporaries of a single operator.

    recomputing: with activation checkpointing, the block that backward makes again is held too; a record counts the
    forward alone. At ZeRO-3 a record counts gathered weights as activations, which are none.
    """
    engine, width = subject.run.engine, _width(subject)
    stage = engine.stage or 0
    numbers = sum(math.prod(s) for s in (*subject.base.values(), *subject.added.values()))
    buffers = sum(insert.buffer_bytes for insert in subject.inserts.values())
    gradients = width * sum(math.prod(subject.shape_of(name)) for name in trained)
    held = subject.among if subject.method.switching == SKIP else trained
    return Memory(
        weights=numbers * width / (engine.ranks if stage == 3 else 1) + buffers,
        gradients=gradients / (engine.ranks if stage >= 2 else 1),
        optimizer=optimizer_bytes(subject, held) / (engine.ranks if stage >= 1 else 1),
        activations=activations(subject, trained, shape, recomputing=recomputing),
    )


def optimizer_bytes(subject: Subject, held: set[str]) -> float:
    """Return the bytes of optimizer state over all ranks: moments, masters (ZeRO's flat copies), step counts."""
    run, width = subject.run, _width(subject)
    mixed = run.optim.precision == "mixed"
    moment = FP32 if mixed else width
    copies = moment if run.engine.stage else FP32 if mixed and width < FP32 else 0
    total = 0.0
    for name in held:
        shape = subject.shape_of(name)
        known = subject.anatomy.unit(name) or subject.anatomy.canonical(name)
        total += subject.method.state_bytes(known, shape, moment) + copies * math.prod(shape) + FP32
    return total


def activations(subject: Subject, trained: set[str], shape: Shape, *, recomputing: bool = True) -> float:
    """Return the bytes that autograd keeps for the backward of one micro-batch, beyond the model's own tensors."""
    sizes, each, blocks = subject.sizes, _width(subject), walks(subject, trained, shape.length)
    kept = [sum(walk.kept.values()) for walk in blocks]
    # Cosines and sines, the same for all blocks.
    rotations = 2 * each * sizes.head_dim if sizes.llama and any(walk.attended for walk in blocks) else 0
    if not subject.run.training.activation_checkpointing:
        per_token = sum(kept) + rotations
    else:
        per_token = sum(each * sizes.width for walk in blocks if walk.gradient)
        per_token += max(kept) + rotations if recomputing else 0.0
    if subject.part_trains(EMBEDDING, trained):
        per_token += 8 + each * subject.insert(EMBEDDING).kept  # the tokens themselves
    end = Walk(sizes, blocks[-1].trained, each, shape.length, False)
    end.norm("x", trains=subject.part_trains(NORM, trained), gradient=blocks[-1].gradient)
    per_token += sum(end.kept.values())
    per_column = FP32 * sizes.vocabulary + 8  # log-softmax in fp32, and the target
    inside, head_trains = subject.insert(HEAD), subject.part_trains(HEAD, trained)
    if (head_trains and inside.reads == "input") or subject.run.engine.stage == 3:
        per_column += each * sizes.width
    if head_trains:
        per_column += each * inside.kept + inside.masks
    index = 8 * shape.columns + FP32  # which positions, and the sum of the targets' weights
    return shape.rows * (shape.length * per_token + shape.columns * per_column) + index


def flops(subject: Subject, trained: set[str], shape: Shape) -> Flops:
    """Return the FLOPs of a token (the module's docstring has the rules)."""
    sizes = subject.sizes
    fused = sizes.kind not in UNFUSED
    attention = (2 if fused else 4) * shape.length * sizes.heads * sizes.head_dim
    forward = backward = again = 0.0
    blocks = walks(subject, trained, shape.length)
    for walk in blocks:
        block = attention
        for module, (num_out, num_in) in linear_shapes(sizes).items():
            matrix = 2 * num_out * num_in
            insert, active = walk.trained.inserts.get(module), module in walk.trained.active
            adapter = 0
            if insert is not None and not insert.dense:
                adapter = 2 * sum(math.prod(s) for s in insert.parameters.values() if len(s) == 2)
            block += matrix + adapter
            passes, dense = module in walk.reached, insert is not None and insert.dense and active
            backward += matrix * (passes + (module in walk.trained.weights or dense))
            backward += adapter * ((passes or active) + active)
        backward += attention * (2.5 if fused else 2) if walk.attended else 0
        forward += block
        again += block if walk.gradient else 0
    below = blocks[-1].gradient or subject.part_trains(NORM, trained)
    outer, outer_backward = _outside(subject, trained, shape.columns / shape.length, below=below)
    recomputed = again if subject.run.training.activation_checkpointing else 0.0
    return Flops(forward + outer, forward + outer + backward + outer_backward + recomputed)


def _outside(subject: Subject, trained: set[str], share: float, *, below: bool) -> tuple[float, float]:
    """Return the FLOPs of a token outside the blocks, forward and backward: the head's, and adapters'.

    share: of the tokens whose logits are computed. below: whether the head's input needs a gradient.
    """
    head, adapted = 2 * subject.sizes.vocabulary * subject.sizes.width * share, HEAD in subject.inserts
    at_head = 2 * share * sum(math.prod(s) for s in subject.insert(HEAD).parameters.values())
    sides = list(subject.insert(EMBEDDING).parameters.values())
    at_embedding = 2 * math.prod(sides[-1]) if sides else 0.0  # B alone multiplies: A is looked up in
    weight_trains = subject.part_trains(HEAD, trained) and not adapted
    return head + at_head + at_embedding, head * (below + weight_trains) + 2 * (at_head + at_embedding)
