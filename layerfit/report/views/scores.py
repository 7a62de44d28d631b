"""The columns of a table for views: every row's numbers in the printed unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerfit.report.cells import Cell, Store, hole
from layerfit.report.spec import Column, Row, TableSpec
from layerfit.report.units import UNITS
from layerfit.report.values import score_of
from layerfit.report.views import common


@dataclass(frozen=True)
class Scores:
    """One column. by_row: row label -> seed -> number as printed (a share times 100)."""

    column: Column
    by_row: dict[str, dict[int | None, float]]
    higher_is_better: bool
    notes: tuple[str, ...]

    def mean(self, row: Row) -> float | None:
        """Return a row's mean over its seeds."""
        return common.mean(self.by_row.get(row.label, {}).values())

    @property
    def decimals(self) -> int:
        """Return the decimals of a column in a matrix: one more than in the table for losses, which differ little."""
        return 3 if self.column.unit == "plain" else UNITS[self.column.unit].decimals

    @property
    def direction(self) -> tuple[str, ...]:
        """Return a note where lower is better."""
        return () if self.higher_is_better else (f"{self.column.label}: lower is better.",)

    @property
    def name(self) -> str:
        """Return the column's label with its unit: `Facts (%)`."""
        symbol = UNITS[self.column.unit].symbol
        return f"{self.column.label} ({symbol})" if symbol else self.column.label


def columns(spec: TableSpec, cells: Sequence[Cell], store: Store, rows: Sequence[Row]) -> list[Scores]:
    """Return the columns of a table that have numbers, with those of these rows."""
    return [_column(column, cells, store, rows) for column in spec.columns if column.hole is None]


def _column(column: Column, cells: Sequence[Cell], store: Store, rows: Sequence[Row]) -> Scores:
    found: dict[str, dict[int | None, float]] = {}
    holes: dict[str, str] = {}
    higher = True
    for row in rows:
        found[row.label] = {}
        for cell in common.of_row(cells, row):
            if column.seed is not None and cell.seed not in (None, column.seed):
                continue
            reason = hole(store, cell.run_id)
            score = None if reason else score_of(store.records[cell.run_id], column.key)
            if score is None:
                holes[cell.name] = reason or f"no score {column.key}"
                continue
            higher = score.higher_is_better
            found[row.label][cell.seed] = UNITS[column.unit].factor * score.value
    return Scores(column, found, higher, common.not_known(holes))


def merged(every: Sequence[Scores]) -> tuple[str, ...]:
    """Return the notes of several columns, each line once."""
    return tuple(dict.fromkeys(note for scores in every for note in scores.notes))
