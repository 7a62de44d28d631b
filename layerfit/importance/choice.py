"""Selecting units of a model, by a ranking or without one. Units are in the model's order, lowest block first."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from layerfit.importance.ranking import ranks

ENDS = ("least", "most")
"""Selections by importance."""
UNRANKED = ("random", "first", "last")
"""Selections without a ranking: the controls."""


def by_importance(scores: Mapping[str, float], count: int, end: str) -> frozenset[str]:
    """Return the `count` least or most important units, ties by name."""
    ascending = sorted(scores, key=lambda unit: (scores[unit], unit))
    return frozenset(ascending[:count] if end == "least" else ascending[len(ascending) - count :])


def unranked(units: Sequence[str], count: int, choice: str, seed: int) -> frozenset[str]:
    """Return the first, last or `count` random units; deterministic in the seed, so ranks and resumed runs agree."""
    if choice == "random":
        return frozenset(random.Random(f"choice/{seed}").sample(list(units), count))
    return frozenset(units[:count] if choice == "first" else units[len(units) - count :])


def shared(rankings: Sequence[Mapping[str, float]], count: int, end: str) -> frozenset[str]:
    """Return the units among the `count` least (or most) important of every ranking: `count` units or fewer."""
    return frozenset.intersection(*(by_importance(scores, count, end) for scores in rankings))


def mean_ranks(rankings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean rank of every unit over rankings of the same units, whose scores have no common scale."""
    each = [ranks(scores) for scores in rankings]
    return {unit: sum(one[unit] for one in each) / len(each) for unit in each[0]}
