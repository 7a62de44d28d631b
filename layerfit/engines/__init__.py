"""Engines make plans true: torch is the reference, DeepSpeed the workhorse."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from layerfit.config.schema import RunConfig
    from layerfit.engines.base import Engine


def make_engine(model: nn.Module, run: RunConfig, micro_batches: int) -> Engine:
    """Return the run's engine over an adapted model."""
    anatomy, method, optim = run.model.anatomy(), run.method, run.optim
    if run.engine.stage is None:
        from layerfit.engines.torch import TorchEngine

        return TorchEngine(model, anatomy, method, optim, micro_batches)
    from layerfit.engines.zero import ZeroEngine

    return ZeroEngine(model, anatomy, method, optim, micro_batches, run.engine)
