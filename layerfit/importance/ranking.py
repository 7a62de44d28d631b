"""Ranks of units, and the rank correlation of two scorings."""

from collections.abc import Mapping

from layerfit.errors import finite


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
