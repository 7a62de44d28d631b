"""Shared parts of views: the runs of a row, their findings, missing ones with reasons, the parts of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from layerfit.errors import UserError
from layerfit.records.record import Record
from layerfit.report.cells import Cell, Store, hole
from layerfit.report.checks import by_value, listed
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec

T = TypeVar("T")
Values = tuple[tuple[float | None, ...], ...]


def option(spec: TableSpec, options: Mapping[str, Any], allowed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a view's options, with defaults for missing ones.

    Raises:
        UserError: naming an unknown option.
    """
    if unknown := [key for key in options if key not in allowed and key != "kind"]:
        names = ", ".join(allowed) or "none"
        raise UserError(f"{spec.file}: views.{options.get('kind')} has no option {unknown[0]!r}; allowed: {names}")
    return {key: options.get(key, default) for key, default in allowed.items()}


def groups(spec: TableSpec) -> dict[str, list[Row]]:
    """Return the rows of a table by group, in order; rows that are published only are left out."""
    out: dict[str, list[Row]] = {}
    for row in spec.rows:
        if row.hole is None:
            out.setdefault(row.group, []).append(row)
    return out


def named(group: str, title: str) -> str:
    """Return a title with its group in front, if there is one."""
    return f"{group}: {title}" if group else title[:1].upper() + title[1:]


def of_row(cells: Sequence[Cell], row: Row) -> list[Cell]:
    """Return the runs of a row."""
    return [cell for cell in cells if cell.row == row.label]


@dataclass(frozen=True)
class Found(Generic[T]):
    """Values read from runs, by row label and seed, and notes on the missing ones.

    about: labels of the rows that have a value, or may have one once they have run.
    """

    by_row: dict[str, dict[int | None, T]]
    notes: tuple[str, ...]
    about: tuple[str, ...] = ()

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows with at least one value."""
        return [row for row in rows if self.by_row.get(row.label)]

    def first(self, row: Row) -> tuple[int | None, T] | None:
        """Return the lowest seed of a row with its value, None if the row has none."""
        found = self.by_row.get(row.label, {})
        return min(found.items(), key=lambda item: -1 if item[0] is None else item[0]) if found else None


def collect(
    rows: Sequence[Row],
    cells: Sequence[Cell],
    store: Store,
    of: Callable[[Record], T | None],
    what: str,
    *,
    every: bool = False,
) -> Found[T]:
    """Read a value from every run of the rows, or from a run that it requires.

    what: name of the value, for notes. every: whether every row that trains should have it; otherwise rows without it
    are outside the view, and are only named where their runs are missing.
    """
    found: dict[str, dict[int | None, T]] = {}
    holes: dict[str, str] = {}
    about: list[str] = []
    for row in rows:
        found[row.label] = {}
        mine: dict[str, str] = {}
        runs = [cell for cell in of_row(cells, row) if cell.run.method.trains]
        for cell in runs:
            value, why = _ask(cell, store, of, what)
            if value is None:
                mine[cell.name] = why
            else:
                found[row.label][cell.seed] = value
        other = not found[row.label] and any(hole(store, cell.run_id) is None for cell in runs)
        if runs and (every or not other):
            about.append(row.label)
            holes |= mine
    notes = not_known(holes) if holes or any(found.values()) else (f"No run of this table has {what}.",)
    return Found(found, notes, tuple(about))


def _ask(cell: Cell, store: Store, of: Callable[[Record], T | None], what: str) -> tuple[T | None, str]:
    """Return a run's value, or that of a run it requires; else None and the reason."""
    reason = hole(store, cell.run_id)
    for name in (cell.run_id, *(before.run_id for before in reversed(cell.before))):
        if hole(store, name) is None and (value := of(store.records[name])) is not None:
            return value, ""
    return None, reason or f"no {what} in its record"


def not_known(holes: Mapping[str, str]) -> tuple[str, ...]:
    """Return one line per reason: `Not known (no record): LoRA, seed 1; LoRA, seed 2.`."""
    return tuple(f"Not known ({reason}): {listed(names)}." for reason, names in by_value(holes).items())


def finding(name: str) -> Callable[[Record], Any]:
    """Return a function that reads one finding of a record, None if it is missing."""
    return lambda record: record.result.findings.get(name) or None


def average(lists: Iterable[Sequence[float | None]]) -> list[float | None]:
    """Return the elementwise mean of lists of one length; None where any element is not known."""
    out: list[float | None] = []
    for values in zip(*lists, strict=True):
        known = [value for value in values if value is not None]
        out.append(sum(known) / len(known) if known and len(known) == len(values) else None)
    return out


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values, None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def table(rows: Iterable[Iterable[float | None]]) -> Values:
    """Return the values of a matrix as tuples."""
    return tuple(tuple(row) for row in rows)


def nothing(title: str, rows: Sequence[Row], drawing: str, notes: Sequence[str]) -> Matrix:
    """Return a matrix without numbers, whose notes give the reasons. It is printed with dashes and not drawn."""
    labels = tuple(row.label for row in rows) or ("-",)
    values: Values = ((None,),) * len(labels)
    return Matrix(title, "run", "what", "number", labels, ("not known yet",), values, drawing, notes=tuple(notes))


def layer_and_module(unit: str) -> tuple[int, str]:
    """Return layer and module of a unit: `layers.3.self_attn.q_proj` -> (3, `self_attn.q_proj`), `layers.3` -> (3, '').

    Raises:
        ValueError: if it is not a unit of a block.
    """
    head, _, rest = unit.partition(".")
    number, _, module = rest.partition(".")
    if head != "layers" or not number.isdigit():
        raise ValueError(f"{unit!r} is not a unit of a block")
    return int(number), module


def kinds(units: Iterable[str], order: Sequence[str]) -> list[str]:
    """Return the distinct modules of some units, in the model's order; '' (whole blocks) first."""
    found = {layer_and_module(unit)[1] for unit in units}
    return sorted(found, key=lambda kind: (order.index(kind) if kind in order else -1 if not kind else 99, kind))


def layer_map(
    scores: Mapping[str, float | None], order: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], Values]:
    """Lay scores by unit out as modules x layers: row names, column names, values."""
    modules = kinds(scores, order)
    layers = range(1 + max(layer_and_module(unit)[0] for unit in scores))
    found = {layer_and_module(unit): score for unit, score in scores.items()}
    names = tuple(module.rpartition(".")[2] or "whole block" for module in modules)
    return names, tuple(map(str, layers)), table([found.get((i, m)) for i in layers] for m in modules)


def order_of(cells: Sequence[Cell]) -> list[str]:
    """Return the linear modules of a block in the model's order."""
    return list(cells[0].run.model.linear or ()) if cells else []
