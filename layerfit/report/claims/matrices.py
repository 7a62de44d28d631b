"""Sentences about what a view computes (a Jaccard similarity, a curve of norms): cells of its matrices as cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from math import log
from typing import Any

from layerfit.errors import UserError
from layerfit.report.claims.cases import Case, Missing, case
from layerfit.report.claims.sources import Source
from layerfit.report.compare import Estimate, over_seeds
from layerfit.report.matrix import Matrix
from layerfit.report.stats import mean

_BY: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min, "mean": mean}


def matrix_cases(source: Source, options: dict[str, Any], threshold: float, sign: float) -> list[Case | Missing]:
    """Return the cells of a view's matrices that the options name, against a threshold.

    view: its kind. matrix: pattern of its title. rows, columns: patterns of what is looked at, default all; a cell of a
    row with itself is left out. over: patterns of columns whose `by` (max, min, mean) the cell is divided by; the
    threshold is then a ratio. The noise is that over seeds, a matrix for each.
    """
    found = source.matrices(str(options["view"]))
    if isinstance(found, str):
        return [Missing(str(options["view"]), found)]
    values: dict[str, list[float]] = {}
    for matrices in found:
        for name, value in _cells(matrices, options):
            values.setdefault(name, []).append(value)
    if not values:
        return [Missing(str(options["view"]), "no number in the view")]
    out: list[Case | Missing] = []
    ratio = "over" in options
    for name, numbers in values.items():
        one = over_seeds([log(x) if ratio else x for x in numbers])
        one = Estimate(one.value, one.spread, one.reason, log=ratio)
        bound = log(threshold) if ratio else threshold
        out.append(case(name, one, sign * (one.value - bound), unit="x" if ratio else "", signed=False, decimals=2))
    return out


def _cells(matrices: list[Matrix], options: dict[str, Any]) -> Iterator[tuple[str, float]]:
    chosen = [m for m in matrices if fnmatchcase(m.title, options.get("matrix", "*"))]
    for matrix in chosen:
        title = f"{matrix.title}: " if len(chosen) > 1 else ""
        for row, line in zip(matrix.rows, matrix.values, strict=True):
            if not _any(row, options.get("rows")):
                continue
            by_column = {c: v for c, v in zip(matrix.columns, line, strict=True) if v is not None}
            over = _reference(by_column, options)
            for column, value in by_column.items():
                if column == row or not _any(column, options.get("columns")):
                    continue
                if over is None:
                    yield f"{title}{row}, {column}", value
                elif over > 0 and value > 0:
                    yield (
                        f"{title}{row}, {column} / {options.get('by', 'max')} of {', '.join(options['over'])}",
                        (value / over),
                    )


def _reference(by_column: dict[str, float], options: dict[str, Any]) -> float | None:
    """Return what a line's cells are divided by, None if by nothing."""
    if "over" not in options:
        return None
    by = str(options.get("by", "max"))
    if by not in _BY:
        raise UserError(f"by={by!r} is not known; choose one of: {', '.join(_BY)}")
    values = [value for column, value in by_column.items() if _any(column, options["over"])]
    return _BY[by](values) if values else 0.0


def _any(label: str, patterns: list[str] | None) -> bool:
    return patterns is None or any(label == pattern or fnmatchcase(label, pattern) for pattern in patterns)
