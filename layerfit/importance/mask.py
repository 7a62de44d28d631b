"""ILA's stage 2: learn a mask over the linear modules by gradient descent on scores (arXiv:2410.17875, Eq. 7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from layerfit.errors import finite
from layerfit.importance.ranking import spearman

Gradient = Callable[[Mapping[str, float], int], tuple[float, dict[str, float]]]


class _Context(Protocol):
    @property
    def shape(self) -> Any: ...
    @property
    def response_gradient(self) -> Gradient: ...


@dataclass(frozen=True)
class MaskSettings:
    """Settings of learning the scores s; gamma = sigmoid(s).

    init: s_0. penalty: lambda of an L1 penalty lambda * sum(gamma). targets: kinds of masked modules, () = all.
    """

    init: float
    lr: float
    steps: int
    optimizer: str
    penalty: float
    targets: tuple[str, ...] = ()


def learn_scores(
    settings: MaskSettings, units: list[str], gradient: Gradient, batches: Iterable[int]
) -> tuple[dict[str, float], list[float]]:
    """Return the scores s by unit and the loss before each step.

    Raises:
        Diverged: if a score is not finite.
    """
    # Python floats outside the engine: at s = 4 bf16 values are 0.03 apart and small SGD steps would be rounded away.
    scores = dict.fromkeys(units, settings.init)
    first = dict.fromkeys(units, 0.0)
    second = dict.fromkeys(units, 0.0)
    losses = []
    for t, batch in enumerate(batches, start=1):
        gammas = {unit: 1 / (1 + math.exp(min(-s, 700.0))) for unit, s in scores.items()}  # beyond, exp overflows
        loss, by_gamma = gradient(gammas, batch)
        losses.append(loss)
        for unit, gamma in gammas.items():
            g = (by_gamma[unit] + settings.penalty) * gamma * (1 - gamma)
            if settings.optimizer == "adam":  # its steps hardly depend on the gradient's size, which blurs the order
                first[unit] = 0.9 * first[unit] + 0.1 * g
                second[unit] = 0.999 * second[unit] + 0.001 * g * g
                g = (first[unit] / (1 - 0.9**t)) / (math.sqrt(second[unit] / (1 - 0.999**t)) + 1e-8)
            scores[unit] = finite(f"ranking score of {unit}", scores[unit] - settings.lr * g)
    return scores, losses


def learn_ranking(settings: MaskSettings, ctx: _Context) -> dict[str, Any]:
    """Learn the scores, and three more sets of scores on other draws of rows to measure their noise.

    Returns:
        `scores` by unit; `losses`; `split_half`: Spearman correlation of the rankings learned on even and on odd
        batches of a stream; `other_data`: that of the ranking with one from another stream. Both are near 0 for noise.
        Every batch is an independent draw of rows, so two batches may share rows.
    """
    units = ctx.shape.modules(settings.targets)

    def learn(start: int, stride: int) -> tuple[dict[str, float], list[float]]:
        batches = range(start, start + stride * settings.steps, stride)
        return learn_scores(settings, units, ctx.response_gradient, batches)

    scores, losses = learn(0, 1)
    even, odd, other = (learn(*s)[0] for s in ((0, 2), (1, 2), (10_000, 1)))
    return {
        "scores": scores,
        "losses": losses,
        "split_half": spearman(even, odd),
        "other_data": spearman(scores, other),
    }
