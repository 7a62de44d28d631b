"""Gates: whether a world can tell methods apart, computed from measured scores. Pure.

A gate that cannot be computed is not passed and gives the reason. If a gate fails, the world cannot rank methods,
and its tables must state that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean, stdev

STANDARD_ERRORS = 2.0  # how far from chance the untrained model may be
LOWEST, HIGHEST = 0.60, 0.95  # where full fine-tuning must lie: below is unlearnt, above is saturated
SEED_DEVIATIONS = 5.0  # how far apart best and worst method must be, on one column at least
DEPTH_STANDARD_ERRORS = 3.0  # how far apart the best and the worst block must be, on one column at least

ScoresByRow = Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True)
class Evidence:
    """Input of the gates. All scores are accuracies in [0, 1]."""

    scores: ScoresByRow  # row -> column -> one score per seed
    items: Mapping[str, int]  # column -> number of test items; only these columns are gated
    location: Mapping[int, Mapping[str, float]] | None = None  # the only block trained -> column -> score
    chance: float = 0.25
    untrained: str = "vanilla"
    full: str = "full"
    not_methods: frozenset[str] = field(default_factory=lambda: frozenset({"vanilla"}))  # left out of gate 3


@dataclass(frozen=True)
class Gate:
    """One verdict. `passed` is False also if the gate was not computed; `detail` then begins with that."""

    name: str
    passed: bool
    detail: str


def gates(evidence: Evidence) -> list[Gate]:
    """Return the four gates, in the order in which they are printed.

    Raises:
        ValueError: if no column is named, or a score or `chance` lies outside [0, 1].
    """
    _check(evidence)
    return [
        _untrained_at_chance(evidence),
        _full_in_range(evidence),
        _methods_apart(evidence),
        _depth_matters(evidence),
    ]


def standard_error(score: float, items: int) -> float:
    """Return the binomial standard error of an accuracy over independent items."""
    return sqrt(score * (1 - score) / items)


def _check(evidence: Evidence) -> None:
    if not evidence.items:
        raise ValueError("items is empty: name at least one column for the gates")
    if not all(count > 0 for count in evidence.items.values()):
        raise ValueError(f"items must be positive, got {dict(evidence.items)}")
    seeds = [s for row in evidence.scores.values() for scores in row.values() for s in scores]
    blocks = [s for row in (evidence.location or {}).values() for s in row.values()]
    outside = [s for s in (*seeds, *blocks, evidence.chance) if not 0 <= s <= 1]  # NaN is outside
    if outside:
        raise ValueError(f"accuracies lie in [0, 1], got {outside[0]}")


def _not_computed(name: str, reason: str) -> Gate:
    return Gate(name, False, f"not computed: {reason}")


def _missing(evidence: Evidence, row: str) -> list[str]:
    """Return the columns for which a row has no score."""
    have = evidence.scores.get(row, {})
    return [column for column in evidence.items if not have.get(column)]


def _untrained_at_chance(evidence: Evidence) -> Gate:
    name = "untrained model at chance"
    missing = _missing(evidence, evidence.untrained)
    if missing:
        return _not_computed(name, f"no score of {evidence.untrained} on {', '.join(missing)}")
    passed, parts = True, []
    for column, count in evidence.items.items():
        score = fmean(evidence.scores[evidence.untrained][column])
        off = (score - evidence.chance) / standard_error(evidence.chance, count)
        passed &= abs(off) <= STANDARD_ERRORS
        parts.append(f"{column} {score:.3f} ({off:+.1f} standard errors)")
    return Gate(name, passed, f"{'; '.join(parts)}; at most {STANDARD_ERRORS:g} from {evidence.chance:g}")


def _full_in_range(evidence: Evidence) -> Gate:
    name = "full fine-tuning neither unlearnt nor saturated"
    missing = _missing(evidence, evidence.full)
    if missing:
        return _not_computed(name, f"no score of {evidence.full} on {', '.join(missing)}")
    means = {column: fmean(evidence.scores[evidence.full][column]) for column in evidence.items}
    passed = all(LOWEST <= mean <= HIGHEST for mean in means.values())
    parts = [f"{column} {mean:.3f}" for column, mean in means.items()]
    return Gate(name, passed, f"{'; '.join(parts)}; wanted {LOWEST:g} to {HIGHEST:g}")


def _methods_apart(evidence: Evidence) -> Gate:
    """Best minus worst mean, over the seed deviation pooled over the column's rows with two seeds or more."""
    name = "methods differ by more than seeds"
    passed, parts = False, []
    for column in evidence.items:
        rows = {row: columns.get(column, []) for row, columns in evidence.scores.items()}
        rows = {r: seeds for r, seeds in rows.items() if len(seeds) > 1 and r not in evidence.not_methods}
        if len(rows) < 2:
            continue
        freedom = sum(len(seeds) - 1 for seeds in rows.values())
        pooled = sqrt(sum((len(seeds) - 1) * stdev(seeds) ** 2 for seeds in rows.values()) / freedom)
        means = {row: fmean(seeds) for row, seeds in rows.items()}
        best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        gap = means[best] - means[worst]
        passed |= gap > 0 and gap >= SEED_DEVIATIONS * pooled
        ratio = f"{gap / pooled:.1f} seed deviations" if pooled else "seeds agree exactly"
        parts.append(f"{column} {best} - {worst} = {gap:.3f} ({ratio})")
    if not parts:
        return _not_computed(name, "no column has two methods with two seeds each")
    return Gate(name, passed, f"{'; '.join(parts)}; wanted {SEED_DEVIATIONS:g} on one column")


def _depth_matters(evidence: Evidence) -> Gate:
    """Best minus worst block against the standard error of that difference (items taken as independent)."""
    name = "the block that trains matters"
    blocks = evidence.location or {}
    if len(blocks) < 2:
        return _not_computed(name, "fewer than two blocks were trained alone")
    passed, parts = False, []
    for column, count in evidence.items.items():
        scores = {block: row[column] for block, row in blocks.items() if column in row}
        if len(scores) < 2:
            continue
        best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
        gap = scores[best] - scores[worst]
        noise = sqrt(sum(standard_error(scores[block], count) ** 2 for block in (best, worst)))
        passed |= gap > 0 and gap >= DEPTH_STANDARD_ERRORS * noise
        parts.append(f"{column} block {best} {scores[best]:.3f}, block {worst} {scores[worst]:.3f}")
    if not parts:
        return _not_computed(name, "no column has the scores of two blocks")
    wanted = f"wanted {DEPTH_STANDARD_ERRORS:g} standard errors of the difference on one column"
    return Gate(name, passed, f"{'; '.join(parts)}; {wanted}")
