"""Greedy removal of trained adapters, layer by layer, the least costly first: loss and order."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from layerfit.importance.ranking import spearman
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.views import common
from layerfit.report.views.common import Found

RemovalFinding = dict[str, Any]


def removals(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return the loss by number of removed units, and each unit's rank of removal; means over seeds."""
    common.option(spec, options, {})
    rows = [row for group in common.groups(spec).values() for row in group]
    found = common.collect(rows, cells, store, common.finding("removal"), "greedy removal")
    known = found.rows(rows)
    if not known:
        return [common.nothing("Greedy removal", rows, "lines", found.notes)]
    return [_losses(known, found), _order(known, found)]


def _losses(rows: list[Row], found: Found[RemovalFinding]) -> Matrix:
    longest = max(len(r["losses"]) for row in rows for r in found.by_row[row.label].values())
    values, notes = [], ["Loss in nats per target token, mean over seeds; 0 removed is the model as trained."]
    for row in rows:
        runs = [[*r["losses"], *[None] * (longest - len(r["losses"]))] for r in found.by_row[row.label].values()]
        line = common.average(runs)
        values.append(line)
        known = [(loss, removed) for removed, loss in enumerate(line) if loss is not None]
        if known and line[0] is not None:
            best, at = min(known)
            free = max(removed for loss, removed in known if loss <= line[0])
            notes.append(
                f"{row.label}: lowest at {at} removed ({best:.3f} after {line[0]:.3f} with none removed); "
                f"{free} of {longest - 1} can go before the loss is above the start for good."
            )
    return Matrix(
        title="Loss as layers are removed",
        row_name="run",
        column_name="layers removed",
        value_name="loss (nats per token)",
        rows=tuple(row.label for row in rows),
        columns=tuple(map(str, range(longest))),
        values=common.table(values),
        drawing="lines",
        decimals=3,
        printed=longest <= 25,
        notes=(*notes, *found.notes),
    )


def _order(rows: list[Row], found: Found[RemovalFinding]) -> Matrix:
    standings: dict[str, dict[str, float | None]] = {}
    notes = ["1: removed first, the least important. Mean over seeds."]
    for row in rows:
        runs = [{u: float(i) for i, u in enumerate(r["order"], start=1)} for r in found.by_row[row.label].values()]
        standings[row.label] = {unit: common.mean(run.get(unit) for run in runs) for unit in runs[0]}
        agree = common.mean(spearman(a, b) for a, b in combinations(runs, 2) if set(a) == set(b))
        if agree is not None:
            notes.append(f"{row.label}: Spearman between the orders of seeds, mean over pairs, {agree:.2f}.")
    units = sorted({unit for line in standings.values() for unit in line}, key=common.layer_and_module)
    return Matrix(
        title="Order of removal",
        row_name="run",
        column_name="layer",
        value_name="removed as",
        rows=tuple(standings),
        columns=tuple(unit.removeprefix("layers.") for unit in units),
        values=common.table([line.get(unit) for unit in units] for line in standings.values()),
        drawing="heatmap",
        decimals=1 if max(len(seeds) for seeds in found.by_row.values()) > 1 else 0,
        printed=len(units) <= 25,
        notes=tuple(notes),
    )
