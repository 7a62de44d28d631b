"""Content of a dashboard as plain data: runs with their curves, tables, a report of panels. Nothing is sent here.

A run here is a copy of a record, apart from any run that a live tracker logged under the run's own id. Keys are those
of `layerfit.run.track`: `train/loss`, `eval/<task>/<metric>`; `column/<label>` is a run's number in the table.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from layerfit.records.record import Record
from layerfit.report import build, render
from layerfit.report.build import LoadedTable
from layerfit.report.table import Entry, TableData

RECORD, REQUIRED, TABLE = "record", "required", "table"
"""Kinds of runs, W&B's `job_type`: a cell's, one that a cell requires (in no panel), and one that holds the tables."""
COSTS = ("memory/weights_bytes", "memory/gradients_bytes", "memory/optimizer_bytes", "memory/activations_bytes")


@dataclass(frozen=True)
class Run:
    """One W&B run. id: changes with the content, so that no content is sent twice."""

    id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WandbTable:
    """A W&B table."""

    columns: list[str]
    data: list[list[Any]]


@dataclass(frozen=True)
class Dashboard:
    """The dashboard of one table. report: title, description, blocks (`markdown`, or `panels` over a set of runs)."""

    table: str
    runs: list[Run]
    grids: dict[str, WandbTable]
    report: dict[str, Any]


def dashboard(loaded: LoadedTable) -> Dashboard:
    """Build the dashboard of a table from its spec and records, complete or not."""
    data = build.assemble(loaded, draft=True)
    runs = _runs(loaded, data)
    grids = {"rows": _rows(data), "runs": _every_run(runs, data)}
    text = json.dumps({name: asdict(grid) for name, grid in grids.items()}, sort_keys=True)
    name = loaded.spec.name
    about = {"table": name, "title": loaded.spec.title}
    runs.append(Run(_id(name, "table", text), f"{name}, as a table", name, TABLE, (name,), about))
    return Dashboard(name, runs, grids, _report(data))


def _id(table: str, what: str, text: str) -> str:
    """Return a valid W&B run id, ending in a hash of the content."""
    digest = hashlib.blake2s(text.encode(), digest_size=4).hexdigest()
    return f"{re.sub(r'[^a-zA-Z0-9_]', '-', table)}-{what}-{digest}"


def _runs(loaded: LoadedTable, data: TableData) -> list[Run]:
    """Return the cells' records and, once each, those of the runs that they require."""
    name, records = loaded.spec.name, loaded.store.records
    scores = _scores(data)
    out: dict[str, Run] = {}
    for cell in loaded.cells:
        for run, before in cell.before:
            if before in records and before not in out:
                label = f"{run.method_name()} for {cell.name}"
                made = _run(records[before], name, cell.row, label, run.seed, {})
                out[before] = replace(made, job_type=REQUIRED)
        if cell.run_id in records:
            own = scores.get((cell.row, cell.seed), {})
            out[cell.run_id] = _run(records[cell.run_id], name, cell.row, cell.name, cell.seed, own)
    return list(out.values())


def _scores(data: TableData) -> dict[tuple[str, int | None], dict[str, float]]:
    """Return the numbers of the table by row and seed: `column/<label>` -> value."""
    out: dict[tuple[str, int | None], dict[str, float]] = {}
    for row in data.rows:
        for shown, entry in zip(data.columns, row.entries, strict=True):
            for seed, value in entry.values:
                out.setdefault((row.label, seed), {})[f"column/{shown.column.label}"] = value
    return out


def _run(record: Record, table: str, row: str, name: str, seed: int | None, scores: Mapping[str, float]) -> Run:
    """Return a record as a W&B run, without unknown values: W&B does not draw nulls."""
    result, measured = record.result, record.measured
    history: dict[int, dict[str, float]] = {}
    for step, loss in enumerate(result.losses, start=1):
        history.setdefault(step, {})["train/loss"] = loss
    for step, loss in result.validation:
        history.setdefault(step, {})["train/validation_loss"] = loss
    summary: dict[str, Any] = {"status": result.status, "message": result.message, **scores}
    summary |= {f"eval/{score.key}": score.value for score in result.scores}
    summary |= {f"memory/{part}_bytes": value for part, value in measured.peak_memory_bytes.items()}
    summary |= {"trainable_parameters": result.trainable_parameters, "tokens": result.tokens}
    for key in ("train_seconds", "eval_seconds", "tokens_per_s", "step_seconds_median"):
        summary[key] = getattr(measured, key)
    config: dict[str, Any] = {"table": table, "row": row, "run_id": record.run_id, "method_name": record.method}
    config |= {"commit": measured.manifest.get("commit"), "device": measured.manifest.get("device"), **result.config}
    known = {key: value for key, value in summary.items() if value is not None}
    text = json.dumps(asdict(record), sort_keys=True) + json.dumps(known, sort_keys=True)
    return Run(
        id=_id(table, record.run_id, text),
        name=name,
        group=table,
        job_type=RECORD,
        tags=(table, record.method),
        config={**config, "seed": seed},  # the cell's, where a table varies another seed than the run's
        history=[{"train/step": step, **history[step]} for step in sorted(history)],
        summary=known,
    )


def _rows(data: TableData) -> WandbTable:
    """Return the table, one line per row: mean, deviation, bold or not, published number, reasons for missing ones."""
    columns = ["row"]
    for shown in data.columns:
        label = shown.column.label
        columns += [label, f"{label} sd", f"{label} bold", f"{label} published", f"{label} holes"]
    lines = [[row.label, *(value for entry in row.entries for value in _entry(entry))] for row in data.rows]
    return WandbTable(columns, lines)


def _entry(entry: Entry) -> list[Any]:
    published = entry.published.value if entry.published is not None else None
    return [entry.mean, entry.spread, entry.bold, published, "; ".join(entry.holes)]


def _every_run(runs: list[Run], data: TableData) -> WandbTable:
    """Return one line per run: its row, seed, status, and its numbers in the table."""
    labels = [shown.column.label for shown in data.columns]
    lines = [
        [run.config["row"], run.config["seed"], run.config["run_id"], run.config["method_name"], run.summary["status"]]
        + [run.summary.get(f"column/{label}") for label in labels]
        for run in runs
    ]
    return WandbTable(["row", "seed", "run_id", "method", "status", *labels], lines)


def _report(data: TableData) -> dict[str, Any]:
    """Return the report: the table as text, then panels over its runs, grouped by row."""
    curves = [
        {"kind": "line", "title": title, "x": "train/step", "y": [f"train/{key}"]}
        for key, title in (("loss", "Training loss"), ("validation_loss", "Validation loss"))
    ]
    bars = [
        {"kind": "bar", "title": shown.column.label, "metrics": [f"column/{shown.column.label}"]}
        for i, shown in enumerate(data.columns)
        if any(row.entries[i].mean is not None for row in data.rows)
    ]
    costs = [
        {"kind": "bar", "title": "Memory by component, bytes", "metrics": list(COSTS)},
        {"kind": "bar", "title": "Training seconds", "metrics": ["train_seconds"]},
    ]

    def panels(title: str, job_type: str, shown: list[dict[str, Any]]) -> dict[str, Any]:
        runs = {"group": data.name, "job_type": job_type}
        return {"kind": "panels", "title": title, "runs": runs, "group_by": "row", "panels": shown}

    grids = [{"kind": "table", "title": name, "key": name} for name in ("rows", "runs")]
    return {
        "title": data.title,
        "description": data.note,
        "blocks": [
            {"kind": "markdown", "text": render.markdown(data)},
            panels("Losses", RECORD, curves),
            panels("Scores by row", RECORD, bars),
            panels("Costs by row", RECORD, costs),
            panels("Tables", TABLE, grids),
        ],
    }
