"""Percentile of a choice of layers among random choices of the same size, in every column."""

from __future__ import annotations

from typing import Any

from layerfit.errors import UserError
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.views import common
from layerfit.report.views.scores import Scores, columns, merged


def percentiles(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return a matrix per group: subjects x columns, the percentile among random draws.

    options: `draws`: label prefix of the rows that are draws (`LoRA w/ RL`); of a single row each seed is a draw.
    `subjects`: labels of the rows to rank among them.

    Raises:
        UserError: if an option is missing or matches no row.
    """
    chosen = common.option(spec, options, {"draws": None, "subjects": None})
    if not chosen["draws"] or not isinstance(chosen["subjects"], list):
        raise UserError(f"{spec.file}: views.ablation needs draws: <how labels of draws begin> and subjects: [<rows>]")
    out: list[Matrix] = []
    for group, rows in common.groups(spec).items():
        draws = [row for row in rows if row.short.startswith(chosen["draws"])]
        subjects = [row for row in rows if row.short in chosen["subjects"]]
        if draws and subjects:
            every = columns(spec, cells, store, [*draws, *subjects])
            out.append(_matrix(group, draws, subjects, every))
    if not out:
        raise UserError(
            f"{spec.file}: views.ablation: no group has rows that begin with {chosen['draws']!r} and one of "
            f"{chosen['subjects']}; rows: {', '.join(row.short for row in spec.rows)}"
        )
    return out


def _drawn(draws: list[Row], scores: Scores) -> list[float]:
    """Return one score per draw: a row's mean over seeds, or the seeds of the only row."""
    if len(draws) == 1:
        return list(scores.by_row[draws[0].label].values())
    return [value for row in draws if (value := scores.mean(row)) is not None]


def percentile(value: float, among: list[float], *, higher_is_better: bool) -> float | None:
    """Return the percentage of draws that a value is better than, ties counted half; None without draws."""
    if not among:
        return None
    better = sum(value > x if higher_is_better else value < x for x in among) + 0.5 * sum(value == x for x in among)
    return 100 * better / len(among)


def _place(row: Row, draws: list[Row], scores: Scores) -> float | None:
    value = scores.mean(row)
    if value is None:
        return None
    return percentile(value, _drawn(draws, scores), higher_is_better=scores.higher_is_better)


def _matrix(group: str, draws: list[Row], subjects: list[Row], every: list[Scores]) -> Matrix:
    counts = sorted({len(_drawn(draws, scores)) for scores in every})
    least = counts[0] if counts else 0
    notes = [
        f"Percent of the {' or '.join(map(str, counts))} random draws that a row is better than, ties counted half. "
        f"Even above all of {least} draws, p is no less than 1/{least + 1} = {1 / (least + 1):.2f}."
    ]
    drawn = {scores.name: known for scores in every if (known := _drawn(draws, scores))}
    notes += [f"{name}: draws from {min(known):.2f} to {max(known):.2f}." for name, known in drawn.items()]
    return Matrix(
        title=common.named(group, "percentile among random draws"),
        row_name="row",
        column_name="score",
        value_name="percentile",
        rows=tuple(row.short for row in subjects),
        columns=tuple(scores.column.label for scores in every),
        values=common.table([_place(row, draws, scores) for scores in every] for row in subjects),
        drawing="bars",
        decimals=0,
        notes=(*notes, *merged(every)),
    )
