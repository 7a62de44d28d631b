"""Importance learned in training: layers x steps, and how far sampling departs from uniform."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from layerfit.importance.ranking import spearman
from layerfit.records.record import Record
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.views import common
from layerfit.report.views.common import Found

PRINTED = 20
"""Maximum number of columns of a printed matrix."""


def learned(record: Record) -> dict[str, Any] | None:
    """Return a run's findings if it learned the importance of layers, else None."""
    return record.result.findings if record.result.findings.get("importance") else None


def learned_scores(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return the raster of every row that learned importance (one seed), then the final importance of all such rows."""
    common.option(spec, options, {})
    rows = [row for group in common.groups(spec).values() for row in group]
    found = common.collect(rows, cells, store, learned, "importance learned by layer")
    out = [raster for row in found.rows(rows) if (raster := _raster(row, found))]
    return (
        [*out, _final(found.rows(rows), found)]
        if found.rows(rows)
        else [common.nothing("Importance by layer", rows, "heatmap", found.notes)]
    )


def _raster(row: Row, found: Found[dict[str, Any]]) -> Matrix | None:
    first = found.first(row)
    assert first is not None
    seed, findings = first
    history = findings.get("importance_history")
    if not history:
        return None
    steps = [step for step, _ in history]
    layers = range(len(history[0][1]))
    return Matrix(
        title=row.label if seed is None else f"{row.label}, seed {seed}",
        row_name="layer",
        column_name="step",
        value_name="importance I",
        rows=tuple(map(str, layers)),
        columns=tuple(map(str, steps)),
        values=common.table([scores[i] for _, scores in history] for i in layers),
        drawing="heatmap",
        printed=False,
        notes=(_uniform(row, found),),
    )


def _uniform(row: Row, found: Found[dict[str, Any]]) -> str:
    """Return a note on how far sampling was from uniform, seed by seed."""
    parts = []
    for seed, findings in found.by_row[row.label].items():
        name = "" if seed is None else f"seed {seed}: "
        odds = findings.get("log_odds_ratio")
        if odds is None:
            parts.append(f"{name}not recorded")
            continue
        verdict = {True: "uniform in effect", False: "left uniform", None: "no verdict"}[
            findings.get("uniform_in_effect")
        ]
        parts.append(f"{name}{math.exp(odds):.3g} ({verdict})")
    return f"{row.label}, odds of drawing the most over the least important layer at the end: {'; '.join(parts)}."


def _final(rows: list[Row], found: Found[dict[str, Any]]) -> Matrix:
    depth = max(len(f["importance"]) for row in rows for f in found.by_row[row.label].values())
    values, notes = [], []
    for row in rows:
        runs = [f["importance"] for f in found.by_row[row.label].values()]
        values.append([*common.average(runs), *[None] * (depth - len(runs[0]))])
        named = [{str(i): score for i, score in enumerate(run)} for run in runs]
        agree = common.mean(spearman(a, b) for a, b in combinations(named, 2))
        if agree is not None:
            notes.append(f"{row.label}: Spearman between the final importance of seeds, mean over pairs, {agree:.2f}.")
        if any(not f.get("importance_history") for f in found.by_row[row.label].values()):
            notes.append(_uniform(row, found) + " No history of importance in its record.")
    return Matrix(
        title="Importance at the end, mean over seeds",
        row_name="run",
        column_name="layer",
        value_name="importance I",
        rows=tuple(row.label for row in rows),
        columns=tuple(map(str, range(depth))),
        values=common.table(values),
        drawing="lines",
        printed=depth <= PRINTED,
        notes=(*notes, *found.notes),
    )
