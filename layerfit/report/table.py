"""A table as data: spec + records + per-item outcomes -> numbers, tests, costs, notes. No formatting, no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from layerfit.records.record import Record
from layerfit.report import stats
from layerfit.report.cells import Cell, Store, hole
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Column, Published, Row, TableSpec
from layerfit.report.values import is_of_first_step, items_of, peak_bytes, score_of


@dataclass(frozen=True)
class Entry:
    """One row's result in one column. Scores are in the task's unit: a share is in [0, 1].

    values: (seed, score), seed None for a run that has none. spread: standard deviation over seeds, None for one run.
    interval: 95%, over seeds and items. worse: the test against the column's best, with its adjusted p.
    holes: why a seed has no number.
    """

    values: tuple[tuple[int | None, float], ...] = ()
    mean: float | None = None
    spread: float | None = None
    interval: tuple[float, float] | None = None
    best: bool = False
    bold: bool = False
    against_best: stats.Comparison | stats.NotTestable | None = None
    adjusted_p: float | None = None
    holes: tuple[str, ...] = ()
    published: Published | None = None


@dataclass(frozen=True)
class Costs:
    """Costs of a row, mean over its seeds; None = does not apply, or not known (reason in `unknown`).

    memory: peak bytes, allocated or (`counted`) the sum of weights, gradients, optimizer state and activations; the
    last are, for records of before schema 3, those of the `first_step`.
    trained: parameters. seconds, tokens: of training, required runs included.
    """

    memory: float | None = None
    counted: bool = False
    first_step: bool = False
    tokens_per_s: float | None = None
    trained: float | None = None
    seconds: float | None = None
    tokens: float | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowData:
    """One line. trains: False for the untrained reference model. hole: why it has no runs, None if it has."""

    label: str
    trains: bool
    entries: tuple[Entry, ...]
    costs: Costs
    group: str = ""
    short: str = ""
    hole: str | None = None


@dataclass(frozen=True)
class ColumnData:
    """One score and the power of its tests.

    comparisons: number of methods tested against the best of their group. detectable: the difference that a comparison
    of this column finds with 80% power at Holm's strictest level, median over the comparisons; None without any.
    first_step: whether a number is memory whose activations are those of a run's first step alone.
    """

    column: Column
    num_items: int | None
    higher_is_better: bool
    comparisons: int
    detectable: float | None
    first_step: bool = False

    @property
    def mark(self) -> str:
        """What stands behind the column's name and unit where they are shown."""
        return ", first step" if self.first_step else ""


@dataclass(frozen=True)
class TableGate:
    """A condition on the whole table; passed: None = could not be decided."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class TableData:
    """Everything that is printed. draft: printed despite its `problems`, and marked DRAFT."""

    name: str
    title: str
    note: str
    rows: tuple[RowData, ...]
    columns: tuple[ColumnData, ...]
    draft: bool
    problems: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()
    gates: tuple[TableGate, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    with_costs: bool = True


@dataclass(frozen=True)
class _Row:
    """One row's entry in one column, with the outcomes that its tests need."""

    entry: Entry
    outcomes: stats.Outcomes | str
    """Seeds x items, in the order of `entry.values`, or the reason why there are none."""


def build(spec: TableSpec, table: list[Cell], store: Store) -> TableData:
    """Return a table's numbers. The caller adds problems, footnotes, gates and views."""
    by_row = {row.label: [cell for cell in table if cell.row == row.label] for row in spec.rows}
    groups: dict[str, list[str]] = {}
    for row in spec.rows:
        groups.setdefault(row.group, []).append(row.label)
    columns: list[ColumnData] = []
    entries: dict[str, list[Entry]] = {label: [] for label in by_row}
    for column in spec.columns:
        records = [r for c in table if (r := _usable(store, c))]
        scores = [s for r in records if (s := score_of(r, column.key))]
        higher = scores[0].higher_is_better if scores else True
        detectable: list[float] = []
        for labels in groups.values():
            rows = _entries(column, {label: by_row[label] for label in labels}, store)
            tested, seen = _tested(rows, higher)
            detectable += seen
            for label, entry in tested.items():
                entries[label].append(replace(entry, published=spec.published.get(label, {}).get(column.label)))
        items = min((s.num_items for s in scores), default=None)
        middle = median(detectable) if detectable else None
        first = any(is_of_first_step(r, str(column.key)) for r in records)
        columns.append(ColumnData(column, items, higher, len(detectable), middle, first))
    lines = tuple(_line(row, by_row[row.label], tuple(entries[row.label]), store) for row in spec.rows)
    return TableData(spec.name, spec.title, spec.note, lines, tuple(columns), draft=False, with_costs=spec.costs)


def _line(row: Row, cells: list[Cell], entries: tuple[Entry, ...], store: Store) -> RowData:
    trains = bool(cells) and cells[0].run.method.trains
    costs = _costs(cells, store) if trains else Costs()
    return RowData(row.label, trains, entries, costs, row.group, row.short, row.hole)


def _entries(column: Column, by_row: dict[str, list[Cell]], store: Store) -> dict[str, _Row]:
    """Return the rows of a group in one column; rows are compared if they share the same items."""
    if column.hole is not None:
        return {label: _Row(Entry(holes=(column.hole,)), "no record") for label in by_row}
    every = (cell for cells in by_row.values() for cell in cells)
    docs = next((s.docs for c in every if (r := _usable(store, c)) and (s := score_of(r, column.key))), "")
    return {
        label: _entry(column, [c for c in cells if column.seed is None or c.seed in (None, column.seed)], store, docs)
        for label, cells in by_row.items()
    }


def _usable(store: Store, cell: Cell) -> Record | None:
    return store.records[cell.run_id] if hole(store, cell.run_id) is None else None


def _entry(column: Column, cells: list[Cell], store: Store, docs: str) -> _Row:
    values: list[tuple[int | None, float]] = []
    outcomes: list[list[float]] = []
    holes: list[str] = []
    reason = ""
    for cell in cells:
        record = _usable(store, cell)
        score = score_of(record, column.key) if record else None
        if record is None or score is None:
            holes.append(f"{cell.name}: {hole(store, cell.run_id) or f'no score {column.key}'}")
            continue
        values.append((cell.seed, score.value))
        items = items_of(record, store.items.get(cell.run_id, {}), str(column.key))
        reason = reason or _untestable(score.value, items, score.docs == docs)
        outcomes.append(items or [])
    if not values:
        return _Row(Entry(holes=tuple(holes)), "no record")
    numbers = [value for _, value in values]
    matrix = None if reason else np.array(outcomes, dtype=np.float64)
    entry = Entry(
        values=tuple(values),
        mean=stats.mean(numbers),
        spread=stats.deviation(numbers),
        interval=None if matrix is None or matrix.size < 2 else stats.interval(matrix),
        holes=tuple(holes),
    )
    return _Row(entry, reason if matrix is None else matrix)


def _untestable(value: float, items: list[float] | None, same: bool) -> str:
    """Return why a score cannot be tested on its per-item outcomes, '' if it can."""
    if not items:
        return "no per-item outcomes"
    if not same:
        return "other items were asked"
    # Items are stored with six decimals. A score that is not the mean of its items (a perplexity, F1) is not tested.
    if abs(sum(items) / len(items) - value) > 1e-5 * max(1.0, abs(value)):
        return "the score is no mean over its items"
    return ""


def _tested(rows: dict[str, _Row], higher: bool) -> tuple[dict[str, Entry], list[float]]:
    """Compare every row with the best; return the entries, and the detectable difference of each comparison."""
    entries = {label: row.entry for label, row in rows.items()}
    means = {label: e.mean if higher else -e.mean for label, e in entries.items() if e.mean is not None}
    if not means:
        return entries, []
    best = max(means, key=means.__getitem__)
    results = {label: _against(rows[best], rows[label]) for label in means if label != best}
    made = {label: r for label, r in results.items() if isinstance(r, stats.Comparison)}
    adjusted = dict(zip(made, stats.holm([r.p for r in made.values()]), strict=True))
    for label, result in results.items():
        p = adjusted.get(label)
        entries[label] = replace(
            entries[label], against_best=result, adjusted_p=p, bold=p is not None and p > stats.LEVEL
        )
    # Without any test nothing is bold: bold would claim a result.
    entries[best] = replace(entries[best], best=True, bold=bool(made))
    return entries, [result.detectable(stats.LEVEL / len(made)) for result in made.values()]


def _against(best: _Row, other: _Row) -> stats.Comparison | stats.NotTestable:
    """Compare two rows on their common seeds; a run without seeds is used for every seed."""
    for row in (best, other):
        if isinstance(row.outcomes, str):
            return stats.NotTestable(row.outcomes)
    assert not isinstance(best.outcomes, str)
    assert not isinstance(other.outcomes, str)
    first, second = ([seed for seed, _ in row.entry.values] for row in (best, other))
    if None in first or None in second:
        return stats.compare(best.outcomes, other.outcomes)
    common = [seed for seed in first if seed in second]
    if not common:
        return stats.NotTestable("no seed in common")
    a, b = [first.index(seed) for seed in common], [second.index(seed) for seed in common]
    return stats.compare(best.outcomes[a], other.outcomes[b])


def _costs(cells: list[Cell], store: Store) -> Costs:
    pairs = [(cell, record) for cell in cells if (record := _usable(store, cell))]
    if not pairs:
        return Costs()
    unknown: list[str] = []

    def average(what: str, key: str, of: Callable[[Cell, Record], float | None]) -> float | None:
        values = [of(cell, record) for cell, record in pairs]
        numbers = [value for value in values if value is not None]
        if len(numbers) == len(values):
            return stats.mean(numbers)
        unknown.extend(sorted({f"{what}: {r.measured.unknown.get(key, 'not recorded')}" for _, r in pairs}))
        return None

    def parts(cell: Cell, of: Callable[[Record], float | None]) -> list[float]:
        """Return the values of a run and those it requires; [] where one of them is not known."""
        records = [store.records.get(name) for name in (cell.run_id, *(before.run_id for before in cell.before))]
        values = [of(record) if record else None for record in records]
        return [] if None in values else [value for value in values if value is not None]

    def total(cell: Cell, of: Callable[[Record], float | None]) -> float | None:
        return sum(found) if (found := parts(cell, of)) else None

    return Costs(
        memory=average("peak memory", "allocated", lambda c, _: max(parts(c, peak_bytes), default=None)),
        counted=any(r.measured.peak_memory_bytes.get("allocated") is None for _, r in pairs),
        first_step=any(is_of_first_step(r) for _, r in pairs),
        tokens_per_s=average("tokens/s", "tokens_per_s", lambda _, r: r.measured.tokens_per_s),
        trained=average("trained parameters", "trainable_parameters", lambda _, r: r.result.trainable_parameters),
        seconds=average("training seconds", "train_seconds", lambda c, _: total(c, lambda r: r.measured.train_seconds)),
        tokens=average("tokens", "tokens", lambda c, _: total(c, lambda r: r.result.tokens)),
        unknown=tuple(unknown),
    )
