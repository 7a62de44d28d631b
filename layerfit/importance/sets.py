"""Sets of the most important units: how two of them overlap, and what chance alone would give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray


def kept(scores: Mapping[str, float], fraction: float) -> frozenset[str]:
    """Return the top `fraction` of units by score; of equal scores the name that sorts first goes first.

    The rest are the round((1 - fraction) n) lowest: what a fine-tune with that share frozen leaves out.

    Raises:
        ValueError: if the fraction is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction!r} is no share; give a number in [0, 1]")
    ascending = sorted(scores, key=lambda unit: (scores[unit], unit))
    return frozenset(ascending[round((1 - fraction) * len(ascending)) :])


def jaccard(a: frozenset[str], b: frozenset[str]) -> float | None:
    """Return |a and b| / |a or b|; None for two empty sets."""
    return len(a & b) / len(a | b) if a | b else None


@dataclass(frozen=True)
class Chance:
    """What Jaccard two sets have by chance. low, high: 95% of draws lie between. p: of as much overlap or more."""

    mean: float
    low: float
    high: float
    p: float


def chance(a: frozenset[str], b: frozenset[str], kinds: Mapping[str, str]) -> Chance | None:
    """Return the exact null of Jaccard(a, b) with b's members drawn anew inside every kind; None for two empty sets.

    kinds: every unit -> its kind. With one kind for all, the overlap is hypergeometric: two independent sets. With
    module types as kinds, b keeps how many units of each type it has, and which layers they are in is drawn: a ranking
    that knows types alone is not above this null (hypergeometric by type, summed).

    Raises:
        ValueError: if a set holds a unit that has no kind.
    """
    if unknown := sorted((a | b) - set(kinds)):
        raise ValueError(f"{unknown[0]} has no kind")
    if not a | b:
        return None
    weights: NDArray[np.float64] = np.ones(1)
    for kind in sorted(set(kinds.values())):
        units = frozenset(unit for unit, its in kinds.items() if its == kind)
        weights = np.convolve(weights, _overlaps(len(units), len(a & units), len(b & units)))
    shared = np.arange(len(weights))
    values = shared / (len(a) + len(b) - shared)
    below = np.cumsum(weights)
    low, high = (float(values[np.searchsorted(below, share - 1e-12)]) for share in (0.025, 0.975))
    return Chance(float(weights @ values), low, high, min(1.0, float(weights[len(a & b) :].sum())))


def _overlaps(total: int, a: int, b: int) -> NDArray[np.float64]:
    """Return the hypergeometric probabilities of 0, 1, ..., min(a, b) shared members of two sets out of `total`."""
    ways = [comb(a, shared) * comb(total - a, b - shared) for shared in range(min(a, b) + 1)]
    return np.array([way / comb(total, b) for way in ways])
