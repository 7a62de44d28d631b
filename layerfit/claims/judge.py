"""From cases to a verdict: how many must hold for a claim to be supported, and at which significance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from layerfit.claims.cases import Case, Missing
from layerfit.report import stats
from layerfit.report.checks import listed

SUPPORTED, CONTRADICTED, UNDECIDED, MIXED = "supported", "contradicted", "undecided", "mixed"
NOT_RUN, NOT_ASKED, NO_NUMBERS, UNTESTABLE = "not run", "not asked", "no numbers", "not testable"
REFUSED, NOT_ANSWERED = "refused", "not answered"
FOR, AGAINST, OPEN = "for", "against", "open"
QUANTIFIERS = ("all", "most", "any")


@dataclass(frozen=True)
class Verdict:
    """word: one of the above. detail: its numbers, in one line. cases: all of them; sides: in the same order."""

    word: str
    detail: str = ""
    cases: tuple[Case, ...] = ()
    sides: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()


def judge(found: Sequence[Case | Missing], quantifier: str) -> Verdict:
    """Return our verdict: a case counts if significant at 5%, adjusted (Holm) for the cases of the claim.

    all: one case significantly against the claim contradicts it. most: more than half must be for it; half against
    contradict it. any: one is enough; only all against contradict it.
    """
    cases = tuple(one for one in found if isinstance(one, Case))
    missing = tuple(one for one in found if isinstance(one, Missing))
    if not cases:
        return Verdict(NOT_ASKED, _why(missing), missing=missing)
    sides, tested = _sides(cases)
    pro, contra, n = sides.count(FOR), sides.count(AGAINST), len(cases)
    supported = {"all": pro == n, "most": 2 * pro > n, "any": pro > 0}[quantifier]
    contradicted = {"all": contra > 0, "most": 2 * contra >= n, "any": contra == n}[quantifier]
    word = SUPPORTED if supported else CONTRADICTED if contradicted else UNDECIDED
    parts = [f"{pro} of {n} shown for it, {contra} against, {n - pro - contra} not told apart"]
    parts += [_extremes(cases)]
    if not tested:
        parts.append(f"no test: {cases[0].reason}")
    elif word == UNDECIDED:
        parts.append(_power(cases, tested))
    if missing:
        parts.append(f"not asked: {_why(missing)}")
    return Verdict(word, "; ".join(part for part in parts if part), cases, sides, missing)


def judge_published(found: Sequence[Case | Missing], quantifier: str) -> Verdict:
    """Return the verdict of the published numbers, by the same rule on signs alone: their noise is not known.

    Without a test one reversal does not refute `all`: the verdict is then mixed.
    """
    cases = tuple(one for one in found if isinstance(one, Case))
    if not cases:
        return Verdict(NO_NUMBERS, _why(tuple(one for one in found if isinstance(one, Missing))))
    sides = tuple(FOR if c.distance > 0 else AGAINST if c.distance < 0 else OPEN for c in cases)
    pro, contra, n = sides.count(FOR), sides.count(AGAINST), len(cases)
    supported = {"all": pro == n, "most": 2 * pro > n, "any": pro > 0}[quantifier]
    contradicted = {"all": pro == 0, "most": 2 * contra > n, "any": pro == 0}[quantifier]
    word = SUPPORTED if supported else CONTRADICTED if contradicted else MIXED
    ties = f", {n - pro - contra} equal" if pro + contra < n else ""
    detail = f"{pro} of {n}{ties}; {_extremes(cases)}"
    with_spread = [c for c in cases if c.plus_minus is not None]
    if with_spread:
        clear = sum(abs(c.distance) > c.plus_minus for c in with_spread if c.plus_minus is not None)
        detail += f"; {clear} of {len(with_spread)} beyond the printed ± (which is not over seeds)"
    return Verdict(word, detail, cases, sides)


def _sides(cases: tuple[Case, ...]) -> tuple[tuple[str, ...], int]:
    """Return the side of every case, and the number of tested cases."""
    made = [c for c in cases if c.p is not None]
    adjusted = iter(stats.holm([c.p for c in made if c.p is not None]))
    out = []
    for one in cases:
        sure = one.p is not None and next(adjusted) <= stats.LEVEL
        out.append(OPEN if not sure or one.distance == 0 else FOR if one.distance > 0 else AGAINST)
    return tuple(out), len(made)


def _extremes(cases: tuple[Case, ...]) -> str:
    """Return the cases with the smallest and the largest distance, as text."""
    best, worst = (choose(cases, key=lambda c: c.distance) for choose in (max, min))
    one = f"{best.name} {best.text()}"
    return one if best is worst else f"from {worst.name} {worst.text()} to {one}"


def _power(cases: tuple[Case, ...], tested: int) -> str:
    """Return the detectable difference: the median over the cases, at Holm's first level."""
    level = stats.LEVEL / tested
    spreads = [c.spread for c in cases if c.spread is not None and c.unit != "x"]  # a ratio's noise is in logarithms
    sizes = [one.reach(level / 2) + one.reach(1 - stats.POWER) for one in spreads]
    if not sizes:
        return ""
    unit = next((f" {c.unit}" for c in cases if c.unit), "")
    return f"found with {stats.POWER:.0%} power: {median(sizes):.2f}{unit} or more"


def _why(missing: tuple[Missing, ...]) -> str:
    """Return the reasons with the cases they apply to: `no judge here (MT-Bench, Vicuna)`."""
    by_reason: dict[str, list[str]] = {}
    for one in missing:
        by_reason.setdefault(one.reason, []).append(one.name)
    return "; ".join(f"{reason} ({listed(dict.fromkeys(names))})" for reason, names in by_reason.items())
