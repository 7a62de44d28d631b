"""Numbers of a table's rows with their noise: levels, differences, ratios, spreads. From spec, cells and records.

A table tests every row against its group's best, a claim tests other pairs, with the same test (`stats`). Numbers over
items are compared over items and seeds; others (seconds, bytes, a loss) over seeds alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
from scipy.special import gammainc, gammaincinv

from layerfit.report import stats
from layerfit.report.cells import Cell, Store, hole
from layerfit.report.spec import Column
from layerfit.report.values import items_of, score_of


@dataclass(frozen=True)
class Estimate:
    """A number and its noise. spread: None = not known, for the reason in `reason`. log: the value is a logarithm.

    plus_minus: the ± of a published number (of a difference: their sum), which is not over seeds.
    """

    value: float
    spread: stats.Spread | None
    reason: str = ""
    log: bool = False
    plus_minus: float | None = None

    @property
    def shown(self) -> float:
        """Return the value for display: a ratio, not its logarithm."""
        return exp(self.value) if self.log else self.value

    def times(self, factor: float) -> Estimate:
        """Return the number in another unit."""
        if self.log or factor == 1:
            return self
        shares = None if self.spread is None else tuple((factor**2 * share, df) for share, df in self.spread.shares)
        spread = None if shares is None else stats.Spread(shares)
        return replace(self, value=factor * self.value, spread=spread)

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of `shown`; None where the noise is not known."""
        if self.spread is None:
            return None
        half = self.spread.reach(stats.LEVEL / 2)
        low, high = self.value - half, self.value + half
        return (exp(low), exp(high)) if self.log else (low, high)


@dataclass(frozen=True)
class Runs:
    """The results of a row's runs in one column.

    seeds: None for a run that has none. values: by seed, in the record's unit. outcomes: seeds x items whose mean is
    the value; seeds x 1, the values themselves, for a number without items. docs: hash of the items, '' for none.
    """

    seeds: tuple[int | None, ...]
    values: tuple[float, ...]
    outcomes: stats.Outcomes
    docs: str
    higher_is_better: bool
    exact: bool = False
    """True for bytes: the same in every repetition of a run, so that one run is enough."""


CERTAIN = stats.Spread(())
"""No noise at all."""


def runs(cells: list[Cell], store: Store, column: Column) -> Runs | str:
    """Return a row's numbers in a column, or the reason why there are none. cells: the row's."""
    found = []
    for cell in cells:
        if column.seed in (None, cell.seed):
            score = score_of(store.records[cell.run_id], column.key) if hole(store, cell.run_id) is None else None
            if score is None:
                return hole(store, cell.run_id) or f"no score {column.key}"
            items = items_of(store.records[cell.run_id], store.items.get(cell.run_id, {}), str(column.key))
            found.append((cell.seed, score, items))
    if not found:
        return "no record"
    values = np.array([score.value for _, score, _ in found], dtype=np.float64)
    rows = [one for _, _, one in found if one]
    outcomes, docs = values[:, None], ""
    if len(rows) == len(found) and len({len(one) for one in rows}) == 1:
        matrix = np.array(rows, dtype=np.float64)
        # A score that is not a mean over its items (a perplexity, F1) is compared over seeds.
        if np.allclose(matrix.mean(axis=1), values, rtol=1e-5, atol=1e-5):
            outcomes, docs = matrix, found[0][1].docs
    seeds, exact = tuple(seed for seed, _, _ in found), str(column.key).endswith("_bytes")
    return Runs(seeds, tuple(values.tolist()), outcomes, docs, found[0][1].higher_is_better, exact)


def level(one: Runs) -> Estimate:
    """Return a row's mean. The noise of a single run without items is not known."""
    mean = float(np.mean(one.values))
    if one.outcomes.size < 2:
        return Estimate(mean, CERTAIN) if one.exact else Estimate(mean, None, "one run")
    return Estimate(mean, stats.two_sources(one.outcomes))


def difference(first: Runs, second: Runs) -> Estimate:
    """Return first - second, paired over seeds (those that both have) and items."""
    a, b = _paired(first, second)
    plain = float(np.mean(first.values)) - float(np.mean(second.values))
    if not len(a) or not len(b):
        return Estimate(plain, None, "no seed in common")
    if first.docs != second.docs:
        return Estimate(plain, None, "other items were asked")
    if first.exact and second.exact and a.size == b.size == 1:
        return Estimate(plain, CERTAIN)
    result = stats.compare(a, b)
    if isinstance(result, stats.NotTestable):
        return Estimate(plain, None, result.reason)
    return Estimate(result.difference, result.spread)


def _paired(first: Runs, second: Runs) -> tuple[stats.Outcomes, stats.Outcomes]:
    """Return the outcomes on common seeds, in the same order; a run without seeds is used for every seed."""
    if None in first.seeds or None in second.seeds:
        return first.outcomes, second.outcomes
    common = [seed for seed in first.seeds if seed in second.seeds]
    a, b = ([one.seeds.index(seed) for seed in common] for one in (first, second))
    return first.outcomes[a], second.outcomes[b]


def interaction(first: tuple[Runs, Runs], second: tuple[Runs, Runs]) -> Estimate:
    """Return (first[0] - first[1]) - (second[0] - second[1]): the change of a difference between two sets of items.

    The two sets of items are independent, so both add their variance; the models of a seed answered both: paired.
    """
    made = [difference(*pair) for pair in (first, second)]
    value = made[0].value - made[1].value
    if reason := next((one.reason for one in made if one.spread is None), ""):
        return Estimate(value, None, reason)
    parts = [_paired(*pair) for pair in (first, second)]
    d = [a - b for a, b in parts]
    if len(d[0]) != len(d[1]):
        return Estimate(value, None, f"{len(d[0])} seeds against {len(d[1])}")
    by_seed = stats.two_sources((d[0].mean(axis=1) - d[1].mean(axis=1))[:, None])
    by_item = [stats.two_sources(one.mean(axis=0)[None]) for one in d if one.shape[1] > 1]
    shares = (*by_seed.shares, *(share for spread in by_item for share in spread.shares))
    return Estimate(value, stats.Spread(shares))


def ratio(first: Runs, second: Runs) -> Estimate:
    """Return the logarithm of first / second over independent runs (Welch: each side has its own variance)."""
    logs = [np.log(np.array(one.values)) for one in (first, second)]
    value = float(logs[0].mean() - logs[1].mean())
    if min(len(one) for one in logs) < 2:
        return Estimate(value, None, "one run", log=True)
    shares = [stats.two_sources(one[:, None]).shares for one in logs]
    return Estimate(value, stats.Spread((*shares[0], *shares[1])), log=True)


def over_seeds(values: list[float]) -> Estimate:
    """Return the mean of one number a seed, with the seeds' noise."""
    mean = stats.mean(values)
    if len(values) < 2:
        return Estimate(mean, None, "one seed")
    return Estimate(mean, stats.two_sources(np.array(values)[:, None]))


def deviation_interval(deviation: float, runs: int) -> tuple[float, float]:
    """Return the 95% interval of a standard deviation over runs (chi-squared, runs - 1 degrees of freedom)."""
    half = (runs - 1) / 2
    low, high = (float(gammaincinv(half, tail)) for tail in (1 - stats.LEVEL / 2, stats.LEVEL / 2))
    return deviation * (half / low) ** 0.5, deviation * (half / high) ** 0.5


def deviation_p(deviation: float, runs: int, bound: float) -> float:
    """Return the two-sided p value of a standard deviation against a bound (chi-squared)."""
    half = (runs - 1) / 2
    below = float(gammainc(half, half * (deviation / bound) ** 2))
    return min(1.0, 2 * min(below, 1 - below))


def log_of(threshold: float, estimate: Estimate) -> float:
    """Return a threshold on the scale of an estimate."""
    return log(threshold) if estimate.log else threshold


def item_noise(one: Runs) -> float | None:
    """Return the standard error of one run's score from its items; None without items."""
    items = one.outcomes.shape[1]
    return float(one.outcomes.mean(axis=0).std(ddof=1)) / items**0.5 if items > 1 else None
