"""What a table refuses: everything that would make its numbers mean something else than they seem to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from layerfit.config import identity_of, run_id
from layerfit.records.record import Record, Score
from layerfit.report.cells import Cell, Store, called, hole, required
from layerfit.report.spec import Column, TableSpec
from layerfit.report.values import score_of

PACKAGES = ("torch", "transformers", "deepspeed", "peft")
"""Versions that move numbers a little: a mixture is noted. lm_eval asks the questions: a mixture is refused."""


def problems(spec: TableSpec, table: list[Cell], store: Store) -> list[str]:
    """Return every reason not to print a table, one line each; empty if there is none."""
    found: dict[str, list[str]] = {}
    for cell in table:
        for what in _of_cell(spec, cell, store):
            found.setdefault(what, []).append(cell.name)
    out = [f"{what}: {listed(names)}" for what, names in found.items()]
    groups = {row.label: row.group for row in spec.rows}
    for group in dict.fromkeys(groups.values()):
        have = [(cell, record) for cell, record in usable(table, store) if groups[cell.row] == group]
        for column in spec.columns:
            out += _of_column(column, have)
    engines = {cell.name: cell.run.engine.name for cell in table if cell.run.method.trains}
    out += mixed("engine", engines)
    out += mixed("lm_eval version", {c.name: version(r, "lm_eval") for c, r in usable(table, store)})
    return out


def notes(table: list[Cell], store: Store) -> list[str]:
    """Return what a reader should know and a table does not refuse: other mixtures."""
    have = usable(table, store)
    out = []
    for name in PACKAGES:
        out += mixed(f"{name} version", {c.name: version(r, name) for c, r in have})
    for name in ("commit", "device"):
        out += mixed(name, {c.name: str(r.measured.manifest.get(name)) for c, r in have})
    return out


def usable(table: list[Cell], store: Store) -> list[tuple[Cell, Record]]:
    """Return the cells that have numbers."""
    return [(c, store.records[c.run_id]) for c in table if hole(store, c.run_id) is None]


def version(record: Record, package: str) -> str:
    """Return the version of a package that a run used, `unknown` if its manifest does not say."""
    return str((record.measured.manifest.get("versions") or {}).get(package, "unknown"))


def listed(names: Iterable[str], limit: int = 4) -> str:
    """Join names for one line: the first few, and how many more."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "; ".join(names[:limit]) + more


def by_value(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return which names share which value, in order of appearance."""
    out: dict[str, list[str]] = {}
    for name, value in values.items():
        out.setdefault(str(value), []).append(name)
    return out


def mixed(what: str, values: Mapping[str, Any]) -> list[str]:
    """Return one line if the values differ, none if they agree."""
    groups = by_value(values)
    if len(groups) < 2:
        return []
    return [f"mixed {what}: " + ", ".join(f"{value} ({listed(names, 2)})" for value, names in groups.items())]


def _of_cell(spec: TableSpec, cell: Cell, store: Store) -> list[str]:
    reason = hole(store, cell.run_id)
    if reason is not None:  # what does not fit is a result, printed as a hole
        return [] if reason.startswith("oom") else [reason]
    record = store.records[cell.run_id]
    # A copied or edited file: its name says one run and its content another.
    if record.run_id != cell.run_id or record.result.config != json.loads(json.dumps(identity_of(cell.run))):
        return ["record of another configuration under this run's name"]
    out = provenance(record, cell)
    for run in required(cell.run):
        reason = hole(store, run_id(run))
        if reason is not None:
            out.append(f"required {called(run, cell.run)} run: {reason}")
    for column in spec.columns:
        if column.key is not None and column.seed in (None, cell.seed):
            out += _of_score(column, score_of(record, column.key), column.key)
    return out


def provenance(record: Record, cell: Cell) -> list[str]:
    """Return what is wrong with how a run was made: tree, evaluation limit, weights, training data."""
    out, run = [], cell.run
    dirty, why = (record.measured.manifest.get(key) for key in ("dirty", "commit_unknown"))
    if dirty is not False:
        out.append("dirty tree" if dirty else "not known whether the tree was clean" + (f" ({why})" if why else ""))
    if run.eval.limit is not None:
        out.append(f"truncated evaluation: eval.limit={run.eval.limit}")
    if run.model.weights == "random":
        out.append("random weights: the pretrained ones were not there")
    card, pinned = record.result.data, run.dataset.num_rows is not None or run.dataset.fingerprint is not None
    if run.method.trains and card is None:
        out.append("no account of the training data")
    elif run.method.trains and card is not None and card.complete is not True and (pinned or card.complete is False):
        state = "not complete" if card.complete is False else "not known to be complete"
        out.append(f"training data {run.dataset.name} is {state} ({card.rows} rows)")
    return out


def of_score(key: str, score: Score | None) -> list[str]:
    """Return what is wrong with one evaluation: not there, truncated, on a cut copy of its data."""
    if score is None:
        return [f"no score {key}"]
    out = []
    if score.num_items < score.num_available:
        out.append(f"truncated evaluation: {key} on {score.num_items} of {score.num_available} items")
    if not score.data_complete:
        out.append(f"evaluation data of {key} is a cut copy of the published set")
    return out


def _of_score(column: Column, score: Score | None, key: str) -> list[str]:
    out = of_score(key, score)
    if score is None:
        return out
    if column.min_items is not None and score.num_items < column.min_items:
        out.append(f"{key} has {score.num_items} items, column {column.label} asks for {column.min_items}")
    if column.unit == "percent" and not 0 <= score.value <= 1:
        out.append(f"{key}={score.value:g} is no share; set unit: plain for column {column.label}")
    return out


def _of_column(column: Column, have: list[tuple[Cell, Record]]) -> list[str]:
    scores = {cell.name: score for cell, r in have if (score := score_of(r, column.key)) is not None}
    out = []
    for what, attribute in (("task version", "version"), ("number of shots", "num_fewshot"), ("items asked", "docs")):
        out += mixed(f"{what} in column {column.label}", {k: getattr(s, attribute) for k, s in scores.items()})
    return out
