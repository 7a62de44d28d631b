"""Means, spreads, and the paired test that decides which entries are bold.

A difference D of two methods has two sources of noise: the choice of seeds and the choice of items. On paired
differences d[s, i] of S seeds and n items

    Var(D) = s2_seed / S + s2_item / n

with s2_seed the variance over seeds of the seed means and s2_item the variance over items of the item means.
against Student's t by Cochran's rule (Biometrics 20:191, 1964): the critical value is the mean of the shares' own t
quantiles, each weighted with its variance. Satterthwaite's degrees of freedom (Biometrics Bulletin 2:110, 1946) never
ask for more and find too much where few seeds carry most of the noise: measured with three seeds, up to 7.8% at the 5%
level and 3.3% at the 0.83% level, Holm's first of six; Cochran's rule up to 5.1% and 1.1%.
The two shares both hold the noise of a single answer, which errs on the safe side.

Items answered by one model stand or fall together, so S x n outcomes are not S x n observations: pooled, most null
differences come out "significant" (tests/report/test_stats.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.05
POWER = 0.80

Outcomes = NDArray[np.float64]
"""Seeds x items; a single row for a method without seeds."""


@dataclass(frozen=True)
class Spread:
    """The variance of a mean. shares: (variance, degrees of freedom) of seeds and of items; zero variances left out."""

    shares: tuple[tuple[float, float], ...]

    @property
    def variance(self) -> float:
        """Return the variance of the mean; 0 where nothing varied."""
        return sum(share for share, _ in self.shares)

    def critical(self, tail: float) -> float:
        """Return the value that the difference over its standard error exceeds with probability `tail` (Cochran)."""
        return -sum(share * float(stdtrit(df, tail)) for share, df in self.shares) / self.variance

    def reach(self, tail: float) -> float:
        """Return `critical` times the standard error; 0 where nothing varied."""
        return self.critical(tail) * self.variance**0.5 if self.shares else 0.0

    def p(self, difference: float) -> float:
        """Return the two-sided p value of a difference: the level whose critical value it just reaches."""
        if difference == 0:
            return 1.0
        if not self.shares:  # the same difference on every item and seed is certain
            return 0.0
        t, low, high = abs(difference) / self.variance**0.5, -300.0, 0.0
        for _ in range(50):  # bisection on log10 p, to 3e-13
            middle = (low + high) / 2
            low, high = (low, middle) if t >= self.critical(10**middle / 2) else (middle, high)
        return 10**high


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same items. difference: of the means, in the score's unit. p: two-sided, not adjusted."""

    difference: float
    spread: Spread
    p: float

    def detectable(self, level: float = LEVEL) -> float:
        """Return the difference that a two-sided test at `level` finds with 80% power (t approximation)."""
        return self.spread.reach(level / 2) + self.spread.reach(1 - POWER)


@dataclass(frozen=True)
class NotTestable:
    """No comparison is possible, for this reason."""

    reason: str


def mean(values: list[float]) -> float:
    """Return the arithmetic mean."""
    return float(np.mean(values))


def deviation(values: list[float]) -> float | None:
    """Return the standard deviation over seeds (n - 1); None for one value, which has no spread."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def two_sources(d: Outcomes) -> Spread:
    """Return the variance of the mean of seeds x items. One seed: the items' share alone.

    A share that is exactly zero is left out, and its degrees of freedom with it.
    """
    seeds, items = d.shape
    assert seeds > 1 or items > 1, d.shape
    a = float(d.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    b = float(d.mean(axis=0).var(ddof=1)) / items if items > 1 else 0.0
    # Sums of equal floats differ in the last bits: anything below that is zero variance.
    floor = (np.finfo(np.float64).eps * float(np.abs(d).max())) ** 2
    shares = ((a, seeds - 1.0), (b, items - 1.0))
    return Spread(tuple((share, df) for share, df in shares if share > floor))


def interval(outcomes: Outcomes) -> tuple[float, float]:
    """Return the 95% confidence interval of a method's own mean, over seeds and items."""
    middle, half = float(outcomes.mean()), two_sources(outcomes).reach(LEVEL / 2)
    return middle - half, middle + half


def compare(first: Outcomes, second: Outcomes) -> Comparison | NotTestable:
    """Test first - second, paired over items and, where both have seeds, over seeds.

    Rows are paired in order: the caller passes the same seeds in the same order. A method without seeds (one row) is
    the same model for every seed, so its row is paired with each row of the other.
    """
    if first.shape[1] != second.shape[1]:
        return NotTestable(f"{first.shape[1]} items against {second.shape[1]}")
    if max(len(first), len(second)) < 2:
        return NotTestable("fewer than two seeds")
    if len(first) != len(second) and min(len(first), len(second)) != 1:
        return NotTestable(f"{len(first)} seeds against {len(second)}")
    d = first - second
    difference, spread = float(d.mean()), two_sources(d)
    return Comparison(difference, spread, spread.p(difference))


def holm(ps: list[float]) -> list[float]:
    """Return p values adjusted for their number (Holm, Scand. J. Statist. 6:65, 1979), in the order given."""
    # Not in scipy 1.17, which has Benjamini-Hochberg and -Yekutieli only: these bound the false discovery rate.
    out, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        out[index] = largest
    return out
