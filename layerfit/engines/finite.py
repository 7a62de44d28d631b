"""Whether weights are finite: looked at once, after the last step. Losses and norms pass `layerfit.errors.finite`."""

from __future__ import annotations

from layerfit.engines.base import Engine
from layerfit.errors import Diverged
from layerfit.models.finite import not_finite


def check_weights(engine: Engine) -> None:
    """Check every weight that could train, each rank its share; every rank must call.

    Raises:
        Diverged: if one is not finite, on every rank, naming the first.
    """
    names = sorted(engine.among)
    own = not_finite([getattr(engine.parameters[name], "ds_tensor", engine.parameters[name]) for name in names])
    bad = [name for name, count in zip(names, engine.all_sum([float(flag) for flag in own]), strict=True) if count]
    if bad:
        raise Diverged(f"the weight {bad[0]} ({len(bad)} of {len(names)} that train) is not finite")
