"""Scores of units: read from findings, as ranks, and the rank correlation of two scorings."""

import math
from collections.abc import Mapping, Sequence

from layerfit.errors import finite


def read_scores(findings: Mapping[str, object], units: Sequence[str]) -> dict[str, float]:
    """Return the scores in the findings of a ranking run, or in a ranking file, for exactly these units.

    Some may be equal; where all are, the choice would be one by name, so that is refused.

    Raises:
        ValueError: if there are none, they score other units, one is no finite number, or all are equal.
    """
    ranking = findings.get("ranking") or findings
    scores = ranking.get("scores") if isinstance(ranking, Mapping) else None
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError("holds no `scores`, an object of a number for each unit; give a file of results/rankings/")
    if set(scores) != set(units):
        raise ValueError(
            f"scores {len(scores)} units ({min(scores)}, ...) that are not the {len(units)} units of this model "
            f"({min(units)}, ...); rank this model"
        )
    for unit, score in scores.items():
        if type(score) not in (int, float) or not math.isfinite(score):
            raise ValueError(f"the score of {unit} is {str(score)[:40]!r}, not a finite number; rank again")
    out = {str(unit): float(score) for unit, score in scores.items()}
    if len(out) > 1 and len(set(out.values())) == 1:
        raise ValueError(f"all {len(out)} scores are {out[units[0]]:g}, which ranks nothing; rank again, longer")
    return out


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the rank of every unit, 1 = lowest score; ties share the mean of their ranks.

    Raises:
        Diverged: if a score is not finite: NaN has no rank.
    """
    for unit, score in scores.items():
        finite(f"ranking score of {unit}", score)
    ordered = sorted(scores, key=scores.__getitem__)
    out: dict[str, float] = {}
    start = 0
    while start < len(ordered):
        end = start
        while end < len(ordered) and scores[ordered[end]] == scores[ordered[start]]:
            end += 1
        for unit in ordered[start:end]:
            out[unit] = (start + 1 + end) / 2
        start = end
    return out


def spearman(a: Mapping[str, float], b: Mapping[str, float]) -> float | None:
    """Return Spearman's rank correlation of two scorings of the same units; None if one of them is constant.

    Raises:
        ValueError: if the units differ.
    """
    if set(a) != set(b):
        raise ValueError("the two scorings name different units")
    ra, rb = ranks(a), ranks(b)
    mean = (len(ra) + 1) / 2
    cov = sum((ra[u] - mean) * (rb[u] - mean) for u in ra)
    var = sum((r - mean) ** 2 for r in ra.values()) * sum((r - mean) ** 2 for r in rb.values())
    return None if var == 0 else float(cov / var**0.5)
