"""A table's numbers behind one interface: our records, or the slides' printed numbers. All in the printed unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Any, Protocol

from layerfit.report import compare, stats
from layerfit.report.cells import Cell, Store
from layerfit.report.compare import Estimate, Runs
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Column, Published, Row, TableSpec
from layerfit.report.units import UNITS
from layerfit.report.values import HIGHER_IS_BETTER, is_score

Views = Mapping[str, Callable[[TableSpec, list[Cell], Store, dict[str, Any]], list[Matrix]]]
PRINTED = "printed without the noise over seeds"


@dataclass(frozen=True)
class Deviation:
    """A standard deviation over runs. items: the standard error of one run's score from its items alone."""

    value: float
    runs: int
    items: float | None = None
    tested: bool = True


class NumberSource(Protocol):
    """Interface of the tests. A text instead of a number is the reason why there is none."""

    @property
    def spec(self) -> TableSpec:
        """Return the table's spec."""

    def higher(self, column: Column) -> bool:
        """Return whether higher is better."""

    def level(self, row: Row, column: Column) -> Estimate | str:
        """Return a row's mean."""

    def difference(self, first: Row, second: Row, column: Column) -> Estimate | str:
        """Return first - second."""

    def interaction(self, first: Row, second: Row, more: Column, less: Column) -> Estimate | str:
        """Return (first - second) in column `more`, minus the same in column `less`."""

    def ratio(self, first: Row, second: Row, column: Column) -> Estimate | str:
        """Return the logarithm of first / second."""

    def deviation(self, row: Row, columns: tuple[Column, ...]) -> Deviation | str:
        """Return the spread of a row's runs; columns: one, or several of one seed each."""

    def matrices(self, view: str) -> list[list[Matrix]] | str:
        """Return a view's matrices, one list for every seed, or a single one where there are no seeds."""


@dataclass(frozen=True)
class Records:
    """Our runs of a table."""

    spec: TableSpec
    cells: list[Cell]
    store: Store
    views: Views

    def higher(self, column: Column) -> bool:  # noqa: D102
        if column.key is not None and not is_score(column.key):
            return column.key in HIGHER_IS_BETTER
        found = (self._runs(row, column) for row in self.spec.rows)
        return next((one.higher_is_better for one in found if isinstance(one, Runs)), True)

    def level(self, row: Row, column: Column) -> Estimate | str:  # noqa: D102
        return self._of(column, compare.level, row)

    def difference(self, first: Row, second: Row, column: Column) -> Estimate | str:  # noqa: D102
        return self._of(column, compare.difference, first, second)

    def ratio(self, first: Row, second: Row, column: Column) -> Estimate | str:  # noqa: D102
        return self._of(column, compare.ratio, first, second)

    def interaction(self, first: Row, second: Row, more: Column, less: Column) -> Estimate | str:  # noqa: D102
        found = [self._runs(row, column) for column in (more, less) for row in (first, second)]
        if reason := next((one for one in found if isinstance(one, str)), ""):
            return reason
        a, b, c, d = (one for one in found if isinstance(one, Runs))
        return compare.interaction((a, b), (c, d)).times(UNITS[more.unit].factor)

    def deviation(self, row: Row, columns: tuple[Column, ...]) -> Deviation | str:  # noqa: D102
        found = [self._runs(row, column) for column in columns]
        if reason := next((one for one in found if isinstance(one, str)), ""):
            return reason
        made = [one for one in found if isinstance(one, Runs)]
        values = [value for one in made for value in one.values]
        spread, factor = stats.deviation(values), UNITS[columns[0].unit].factor
        if spread is None:
            return "one run"
        items = compare.item_noise(made[0])
        return Deviation(factor * spread, len(values), None if items is None else factor * items)

    def matrices(self, view: str) -> list[list[Matrix]] | str:  # noqa: D102
        options = next((dict(one) for one in self.spec.views if one["kind"] == view), None)
        if options is None or view not in self.views:
            return f"table {self.spec.name} has no view {view}"
        out = []
        for seed in self.spec.seeds:
            cells = [cell for cell in self.cells if cell.seed in (None, seed)]
            out.append(self.views[view](self.spec, cells, self.store, options))
        return out

    def _of(self, column: Column, make: Callable[..., Estimate], *rows: Row) -> Estimate | str:
        found = [self._runs(row, column) for row in rows]
        if reason := next((one for one in found if isinstance(one, str)), ""):
            return reason
        return make(*found).times(UNITS[column.unit].factor)

    def _runs(self, row: Row, column: Column) -> Runs | str:
        if (reason := row.hole or column.hole) is not None:
            return reason
        return compare.runs([cell for cell in self.cells if cell.row == row.label], self.store, column)


@dataclass(frozen=True)
class Printed:
    """The slides' numbers of a table. Their noise is not known: a printed ± is not over seeds (`lisa_seeds`)."""

    spec: TableSpec
    cells: list[Cell]
    store: Store
    views: Views

    def higher(self, column: Column) -> bool:  # noqa: D102
        return column.key is None or is_score(column.key) or column.key in HIGHER_IS_BETTER

    def level(self, row: Row, column: Column) -> Estimate | str:  # noqa: D102
        one = self._cell(row, column)
        return "not printed" if one is None else Estimate(one.value, None, PRINTED, plus_minus=one.spread)

    def difference(self, first: Row, second: Row, column: Column) -> Estimate | str:  # noqa: D102
        a, b = self._cell(first, column), self._cell(second, column)
        if a is None or b is None:
            return "not printed"
        both = None if a.spread is None or b.spread is None else a.spread + b.spread
        # Rounded, so that differences of printed decimals are exact: 0.3 - 0.1 is 0.2.
        return Estimate(round(a.value - b.value, 6), None, PRINTED, plus_minus=both)

    def ratio(self, first: Row, second: Row, column: Column) -> Estimate | str:  # noqa: D102
        a, b = self._cell(first, column), self._cell(second, column)
        return "not printed" if a is None or b is None else Estimate(log(a.value / b.value), None, PRINTED, log=True)

    def interaction(self, first: Row, second: Row, more: Column, less: Column) -> Estimate | str:  # noqa: D102
        a, b = self.difference(first, second, more), self.difference(first, second, less)
        if isinstance(a, str) or isinstance(b, str):
            return "not printed"
        return Estimate(round(a.value - b.value, 6), None, PRINTED)

    def deviation(self, row: Row, columns: tuple[Column, ...]) -> Deviation | str:  # noqa: D102
        found = [cell.value for column in columns if (cell := self._cell(row, column)) is not None]
        spread = stats.deviation(found) if found else None
        return "not printed" if spread is None else Deviation(spread, len(found), tested=False)

    def matrices(self, view: str) -> list[list[Matrix]] | str:  # noqa: D102
        options = next((dict(one) for one in self.spec.views if one["kind"] == view), None)
        if options is None or view not in self.views:
            return f"table {self.spec.name} has no view {view}"
        found = self.views[view](self.spec, self.cells, self.store, options)
        made = [replace(one, values=one.published) for one in found if one.published is not None]
        return [made] if made else "drawn, not printed"

    def _cell(self, row: Row, column: Column) -> Published | None:
        return self.spec.published.get(row.label, {}).get(column.label)
