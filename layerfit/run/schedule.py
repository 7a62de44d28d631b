"""Learning-rate schedules: pure functions of the step."""

import math

from layerfit.config.schema import OptimConfig


def learning_rate(optim: OptimConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of optimizer step `step` (0-based) of `num_steps`.

    Linear warm-up over `warmup_ratio` of the run, then constant, or down to 0 at the end by a line or a half cosine.
    One global schedule: a switch of layers does not restart it (as in every public implementation).
    """
    warmup = round(optim.warmup_ratio * num_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    if optim.schedule == "linear":
        return optim.lr * (1 - progress)
    if optim.schedule == "cosine":
        return optim.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return optim.lr
