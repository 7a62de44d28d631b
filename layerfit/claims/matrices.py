"""Claims about the numbers of a view (a Jaccard similarity, a curve of norms): cells of its matrices as cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from math import log
from typing import Any

from layerfit.claims.cases import Case, Missing, case
from layerfit.claims.sources import NumberSource
from layerfit.errors import UserError
from layerfit.report.compare import over_seeds
from layerfit.report.matrix import Matrix
from layerfit.report.stats import mean

_BY: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min, "mean": mean}


def matrix_cases(source: NumberSource, options: dict[str, Any], threshold: float, sign: float) -> list[Case | Missing]:
    """Return the cells of a view's matrices that the options select, against a threshold.

    view: its kind. matrix: pattern of its title. rows, columns: patterns, default all; a cell of a row with itself is
    left out. over, minus: patterns of other columns, whose `by` (max, min, mean) divides the cell or is subtracted from
    it; the threshold then applies to the ratio or the difference. Noise is over seeds, one matrix each.
    """
    found = source.matrices(str(options["view"]))
    if isinstance(found, str):
        return [Missing(str(options["view"]), found)]
    values: dict[str, list[float]] = {}
    for matrices in found:
        for name, value in _cells(matrices, options):
            values.setdefault(name, []).append(value)
    if not values:
        return [Missing(str(options["view"]), "no number in the view, or nothing beside it to compare with")]
    out: list[Case | Missing] = []
    ratio = "over" in options
    bound = log(threshold) if ratio else threshold
    for name, numbers in values.items():
        one = replace(over_seeds([log(x) if ratio else x for x in numbers]), log=ratio)
        distance = sign * (one.value - bound)
        unit = "x" if ratio else ""
        out.append(case(name, one, distance, unit=unit, signed="minus" in options, decimals=2))
    return out


def _cells(matrices: list[Matrix], options: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the name and value of every case."""
    chosen = [matrix for matrix in matrices if fnmatchcase(matrix.title, options.get("matrix", "*"))]
    others = options.get("over") or options.get("minus")
    by = str(options.get("by", "max"))
    if by not in _BY:
        raise UserError(f"by={by!r} is unknown; choose one of: {', '.join(_BY)}")
    for matrix in chosen:
        title = f"{matrix.title}: " if len(chosen) > 1 else ""
        for row, line in zip(matrix.rows, matrix.values, strict=True):
            known = {c: v for c, v in zip(matrix.columns, line, strict=True) if v is not None}
            cells = {c: v for c, v in known.items() if c != row and _any(c, options.get("columns"))}
            if not _any(row, options.get("rows")):
                continue
            if others is None:
                yield from ((f"{title}{row}, {column}", value) for column, value in cells.items())
                continue
            rest = [value for column, value in known.items() if column not in cells and _any(column, others)]
            for column, value in cells.items() if rest else ():
                if "minus" in options:
                    yield f"{title}{row}, {column} - {by} of {', '.join(others)}", value - _BY[by](rest)
                elif value > 0 and _BY[by](rest) > 0:
                    yield f"{title}{row}, {column} / {by} of {', '.join(others)}", value / _BY[by](rest)


def _any(label: str, patterns: list[str] | None) -> bool:
    return patterns is None or any(label == pattern or fnmatchcase(label, pattern) for pattern in patterns)
