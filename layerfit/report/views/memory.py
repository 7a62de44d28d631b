"""Peak memory by component, and the peak of every method on every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerfit.errors import check_one_of
from layerfit.records.record import Record
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import PROFILE, Row, TableSpec
from layerfit.report.units import UNITS
from layerfit.report.values import PARTS, is_of_first_step, peak_bytes
from layerfit.report.views import common
from layerfit.report.views.common import Found

GIB = 2**30
SIZES = {"gib": 1, "gb": 1, "mib": 2}
"""Unit -> decimals, as many as the components of a small run need."""
Parts = dict[str, int | None]
FIRST = " (activations: first step)"
"""Marks memory of records that do not hold the largest of all steps."""


def parts(record: Record) -> Parts | None:
    """Return bytes by component, None where no component is known."""
    found = {part: record.measured.peak_memory_bytes.get(part) for part in PARTS}
    return found if any(value is not None for value in found.values()) else None


def memory_by_part(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return stacked bars for every group, and a grid of peaks: methods x groups.

    options: `unit` (gib, gb, mib; default: that of the table's column of peaks, else by size); `published`: row label
    -> [weights, gradients, optimizer, activations] of the paper, in that unit; `published_peak`: row label -> peak
    (default: what is published in the table's column of peaks).

    Raises:
        UserError: if an option is wrong.
    """
    chosen = common.option(spec, options, {"unit": None, "published": {}, "published_peak": {}})
    rows = [row for group in common.groups(spec).values() for row in group]
    what = "account of its memory"
    found = common.collect(rows, cells, store, parts, what, every=True)
    peaks = common.collect(rows, cells, store, peak_bytes, "peak of its memory", every=True)
    largest = max((peak for seeds in peaks.by_row.values() for peak in seeds.values()), default=GIB)
    column = next((c for c in spec.columns if c.key == "measured/peak_bytes" and c.unit in SIZES), None)
    size = chosen["unit"] or (column.unit if column else "gib" if largest >= GIB else "mib")
    check_one_of(f"{spec.file}: views.memory.unit", size, tuple(SIZES))
    have = [store.records[cell.run_id] for cell in cells if cell.run_id in store.records]
    first = any(is_of_first_step(record, "measured/activations_bytes") for record in have)
    out = [
        _stack(group, _trained(rows, cells), found, size, chosen["published"], first)
        for group, rows in common.groups(spec).items()
    ]
    known = chosen["published_peak"]
    if column and column.unit == size and not spec.name.endswith(PROFILE):
        theirs = {row.label: spec.published.get(row.label, {}).get(column.label) for row in rows}
        known = {**{label: cell.value for label, cell in theirs.items() if cell}, **known}
    return [*out, _grid(spec, cells, peaks, size, known, first)]


def _trained(rows: Sequence[Row], cells: Sequence[Cell]) -> list[Row]:
    """Return the rows that train: the untrained model has no training memory."""
    return [row for row in rows if (runs := common.of_row(cells, row)) and runs[0].run.method.trains]


def _stack(
    group: str, rows: list[Row], found: Found[Parts], size: str, published: Mapping[str, Sequence[float]], first: bool
) -> Matrix:
    factor = UNITS[size].factor
    values = []
    for row in rows:
        runs = list(found.by_row.get(row.label, {}).values())
        means = common.average([[run[part] for part in PARTS] for run in runs]) if runs else [None] * len(PARTS)
        values.append([None if value is None else factor * value for value in means])
    theirs = common.table(published.get(row.label, (None,) * len(PARTS)) for row in rows)
    when = "at the first step" if first else "at their largest of all steps"
    note = (
        f"Bytes of weights, gradients and optimizer state as held, activations {when}, each at its own "
        "largest; mean over seeds. They need not all be largest at once: the sum may be above the allocator's peak."
    )
    return Matrix(
        title=common.named(group, f"memory by component{FIRST if first else ''}"),
        row_name="method",
        column_name="component",
        value_name=UNITS[size].symbol,
        rows=tuple(row.short for row in rows),
        columns=PARTS,
        values=common.table(values),
        drawing="stacked",
        published=theirs if any(row.label in published for row in rows) else None,
        decimals=SIZES[size],
        notes=(note, *found.notes),
    )


def _grid(
    spec: TableSpec, cells: Sequence[Cell], peaks: Found[float], size: str, published: Mapping[str, float], first: bool
) -> Matrix:
    groups = common.groups(spec)
    by_name = {(row.short, row.group): row.label for rows in groups.values() for row in _trained(rows, cells)}
    shorts = tuple(dict.fromkeys(short for short, _ in by_name))
    factor = UNITS[size].factor

    def peak(short: str, group: str) -> float | None:
        value = common.mean(peaks.by_row.get(by_name.get((short, group), ""), {}).values())
        return None if value is None else factor * value

    known = common.table([published.get(by_name.get((s, g), "")) for g in groups] for s in shorts)
    return Matrix(
        title=f"Peak memory{FIRST if first else ''}",
        row_name="method",
        column_name="model",
        value_name=UNITS[size].symbol,
        rows=shorts,
        columns=tuple(group or "peak" for group in groups),
        values=common.table([peak(short, group) for group in groups] for short in shorts),
        drawing="heatmap" if len(groups) > 1 else "bars",
        published=known if published else None,
        decimals=SIZES[size],
        notes=("As the allocator says; where it does not, the sum of the components. Mean over seeds.", *peaks.notes),
    )
