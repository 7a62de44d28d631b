"""Memory of training without activations: bytes of weights, gradients and optimizer state."""

from __future__ import annotations

import math
from typing import Any

import torch

from layerfit.engines.torch import TorchEngine
from layerfit.engines.trainable import freeze_to
from layerfit.estimate.subject import Subject
from layerfit.methods.base import Plan


def engine_over(subject: Subject, plan: Plan) -> TorchEngine:
    """Return the reference engine over a model on the meta device, following a plan, with the state of its optimizer.

    Each plan gets a new engine: a switch copies values, and meta tensors have none.
    """
    freeze_to(subject.model, set(subject.among))
    run = subject.run
    steps = run.training.max_steps or 1  # memory does not depend on it
    engine = TorchEngine(subject.model, subject.anatomy, subject.method, run.optim, num_steps=steps, micro_batches=1)
    engine.use(plan)
    return engine


def parameter_bytes(subject: Subject) -> int:
    """Return the bytes of all parameters, which a record calls weights."""
    return sum(p.nbytes for p in subject.model.parameters())


def buffer_bytes(subject: Subject) -> int:
    """Return the bytes of all buffers: indices of a mask, tables of rotary positions."""
    return sum(b.nbytes for b in subject.model.buffers())


def gradient_bytes(engine: TorchEngine) -> int:
    """Return the bytes of the gradients of the trained parameters."""
    return sum(engine.parameters[name].nbytes for name in engine.active)


def optimizer_bytes(engine: TorchEngine, stage: int, ranks: int) -> int:
    """Return the bytes of optimizer state and master weights, on one rank.

    From ZeRO-1 on, the optimizer steps a flat copy of the rank's share of every group and keeps state for it: in fp32,
    or with pure_bf16 in the dtype of the weights.
    """
    optimizer = engine.optimizer_object()
    if not stage:
        return sum(_state_bytes(state) for state in optimizer.state.values())
    total = 0
    for group in optimizer.param_groups:
        dtype = torch.float32 if engine.optim.precision == "mixed" else group["params"][0].dtype
        share = math.ceil(sum(p.numel() for p in group["params"]) / ranks)
        flat = torch.empty(share, dtype=dtype, device="meta")
        total += flat.nbytes + _state_bytes(optimizer.allocate(flat, group))
    return total


def _state_bytes(state: dict[str, Any]) -> int:
    return sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))
