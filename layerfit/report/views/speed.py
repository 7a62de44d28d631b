"""Seconds of a step: forward, backward and update, and the speed-up over a reference row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerfit.errors import UserError
from layerfit.records.record import Record
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.units import UNITS
from layerfit.report.values import VALUES
from layerfit.report.views import common
from layerfit.report.views.common import Found

PHASES = ("forward", "backward", "update")
Seconds = list[float | None]


def phases(record: Record) -> Seconds | None:
    """Return the seconds of forward, backward and update (medians over steps); None if none was measured."""
    found = [VALUES[f"measured/{phase}_seconds"](record) for phase in PHASES]
    return found if any(value is not None for value in found) else None


def tokens_per_step(record: Record) -> float | None:
    """Return the mean number of tokens of a step, probes included."""
    steps = len(record.result.losses)
    return record.result.tokens / steps if record.result.tokens and steps else None


def relative_speed(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return stacked bars for every group, and methods x groups: the speed-up over the row `against`.

    options: `against`: label (inside its group) of the reference row; `published`: row label -> [forward, backward,
    update] of the paper in milliseconds, null for a missing one.

    Raises:
        UserError: if an option is wrong.
    """
    chosen = common.option(spec, options, {"against": None, "published": {}})
    groups = common.groups(spec)
    shorts = list(dict.fromkeys(row.short for rows in groups.values() for row in rows))
    if chosen["against"] is not None and chosen["against"] not in shorts:
        raise UserError(f"{spec.file}: views.speed.against={chosen['against']!r} is no row; rows: {', '.join(shorts)}")
    rows = [row for group in groups.values() for row in group]
    found = common.collect(rows, cells, store, phases, "times of forward, backward and update", every=True)
    tokens = common.collect(rows, cells, store, tokens_per_step, "count of tokens")
    out = [_stack(group, rows, cells, found, tokens, chosen["published"]) for group, rows in groups.items()]
    return [*out, *([_ratios(groups, cells, found, chosen["against"])] if chosen["against"] else [])]


def _trained(rows: Sequence[Row], cells: Sequence[Cell]) -> list[Row]:
    return [row for row in rows if (runs := common.of_row(cells, row)) and runs[0].run.method.trains]


def _mean(found: Found[Seconds], label: str) -> Seconds:
    runs = list(found.by_row.get(label, {}).values())
    return common.average(runs) if runs else [None] * len(PHASES)


def _stack(
    group: str,
    rows: Sequence[Row],
    cells: Sequence[Cell],
    found: Found[Seconds],
    tokens: Found[float],
    published: Mapping[str, Seconds],
) -> Matrix:
    rows, factor = _trained(rows, cells), UNITS["ms"].factor
    counts = [count for row in rows for count in tokens.by_row.get(row.label, {}).values()]
    notes = ["Medians over the steps, mean over seeds. Probes and evaluations are not in them."]
    if counts:
        low, high = min(counts), max(counts)
        much = f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f} to {high:,.0f}"
        notes.append(f"Tokens of a step, padding excluded, probes spread over the steps: {much}.")
    theirs = [published.get(row.label, [None] * len(PHASES)) for row in rows]
    return Matrix(
        title=common.named(group, "time of a step"),
        row_name="method",
        column_name="phase",
        value_name="ms",
        rows=tuple(row.short for row in rows),
        columns=PHASES,
        values=common.table([None if v is None else factor * v for v in _mean(found, row.label)] for row in rows),
        drawing="stacked",
        published=common.table(theirs) if any(row.label in published for row in rows) else None,
        decimals=UNITS["ms"].decimals,
        notes=(*notes, *found.notes),
    )


def _ratios(groups: Mapping[str, list[Row]], cells: Sequence[Cell], found: Found[Seconds], against: str) -> Matrix:
    """Compare whole steps; a row with an unknown phase has no ratio."""
    labels = {(row.short, group): row.label for group, rows in groups.items() for row in _trained(rows, cells)}
    shorts = tuple(dict.fromkeys(short for short, _ in labels))

    def step(short: str, group: str) -> float | None:
        known = _mean(found, labels.get((short, group), ""))
        return None if None in known else sum(value for value in known if value is not None)

    def ratio(short: str, group: str) -> float | None:
        mine, full = step(short, group), step(against, group)
        return full / mine if mine and full else None

    return Matrix(
        title=f"A step, times as fast as {against}",
        row_name="method",
        column_name="model",
        value_name=f"times as fast as {against}",
        rows=shorts,
        columns=tuple(group or "all" for group in groups),
        values=common.table([ratio(short, group) for group in groups] for short in shorts),
        drawing="bars",
        notes=("Forward, backward and update together.",),
    )
