"""Engines train the parameters of a plan: plain torch is the reference, DeepSpeed the one for real runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy
    from layerfit.config.schema import RunConfig
    from layerfit.engines.base import Engine


def make_engine(model: nn.Module, anatomy: Anatomy, run: RunConfig, *, num_steps: int, micro_batches: int) -> Engine:
    """Return the run's engine for an adapted model."""
    method, optim = run.method, run.optim
    if run.engine.stage is None:
        from layerfit.engines.torch import TorchEngine

        return TorchEngine(model, anatomy, method, optim, num_steps=num_steps, micro_batches=micro_batches)
    from layerfit.engines.zero import ZeroEngine

    return ZeroEngine(
        model, anatomy, method, optim, num_steps=num_steps, micro_batches=micro_batches, engine=run.engine
    )
