"""Sets of the most important units: the overlap of two of them, and its null distribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray


def kept(scores: Mapping[str, float], fraction: float) -> frozenset[str]:
    """Return the top `fraction` of units by score; of equal scores, the name that sorts first is left out first.

    The other round((1 - fraction) n) units are those that a fine-tuning run with that share frozen would freeze.

    Raises:
        ValueError: if the fraction is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction!r} is not a share; give a number in [0, 1]")
    ascending = sorted(scores, key=lambda unit: (scores[unit], unit))
    return frozenset(ascending[round((1 - fraction) * len(ascending)) :])


def jaccard(a: frozenset[str], b: frozenset[str]) -> float | None:
    """Return |a and b| / |a or b|; None for two empty sets."""
    return len(a & b) / len(a | b) if a | b else None


@dataclass(frozen=True)
class Chance:
    """Jaccard index of two sets by chance. low, high: central 95%. p: probability of at least the observed overlap."""

    mean: float
    low: float
    high: float
    p: float


def chance(a: frozenset[str], b: frozenset[str], kinds: Mapping[str, str]) -> Chance | None:
    """Return the exact null of Jaccard(a, b), b's members redrawn within every kind; None for two empty sets.

    kinds: unit -> kind. One kind for all units gives the null of two independent sets (hypergeometric overlap). Module
    types as kinds keep the number of b's units per type and redraw their layers (sum of hypergeometric overlaps), so a
    ranking that depends on module type alone is not above this null.

    Raises:
        ValueError: if a unit has no kind.
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
