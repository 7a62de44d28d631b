"""Checks of a table: everything that would make its numbers misleading is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from layerfit.config.schema import RunConfig
from layerfit.records.manifest import dirt
from layerfit.records.record import Record, Score
from layerfit.report.cells import Cell, Store, called, hole
from layerfit.report.spec import Column, TableSpec
from layerfit.report.values import score_of

PACKAGES = ("torch", "transformers", "deepspeed", "peft")
"""Versions that change numbers slightly: a mixture is noted. Mixed versions of lm_eval, which scores, are refused."""


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
    """Return notes on mixtures that a table does not refuse."""
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
    """Return the version of a package that a run used, `unknown` if its manifest has none."""
    return str((record.measured.manifest.get("versions") or {}).get(package, "unknown"))


def listed(names: Iterable[str], limit: int = 4) -> str:
    """Join names for one line: the first few, and the number of others."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "; ".join(names[:limit]) + more


def by_value(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Group names by value, in order of appearance."""
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
    if reason is not None:  # out of memory is a result, printed as a dash
        return [] if reason.startswith("oom") else [reason]
    record = store.records[cell.run_id]
    out = provenance(record, cell) + _of_required(cell, store)
    for column in spec.columns:
        if column.key is not None and column.seed in (None, cell.seed):
            out += _of_score(column, score_of(record, column.key), column.key)
    return out


def _of_required(cell: Cell, store: Store) -> list[str]:
    """Return the problems of the runs that a run requires."""
    out = []
    for run, name in cell.before:
        reason = hole(store, name)
        wrong = [reason] if reason is not None else of_tree(store.records[name])
        out += [f"required {called(run, cell.run)} run: {what}" for what in wrong]
    return out


def provenance(record: Record, cell: Cell) -> list[str]:
    """Return the problems of a run's provenance: tree, evaluation limit, weights, training data."""
    return of_tree(record) + of_settings(cell.run) + _of_data(record, cell.run)


def of_tree(record: Record) -> list[str]:
    """Return a problem if a run's code cannot be found again: a dirty or unknown tree."""
    dirty, why = (record.measured.manifest.get(key) for key in ("dirty", "commit_unknown"))
    if dirty is False:
        return []
    return ["dirty tree" if dirty else "not known whether the tree was clean" + (f" ({why})" if why else "")]


def of_settings(run: RunConfig) -> list[str]:
    """Return the problems of a run's settings: known before it runs, and not fixed by running it again."""
    out = [] if run.eval.limit is None else [f"truncated evaluation: eval.limit={run.eval.limit}"]
    return out + (["random weights: the pretrained ones were not there"] if run.model.weights == "random" else [])


def _of_data(record: Record, run: RunConfig) -> list[str]:
    card, pinned = record.result.data, run.dataset.num_rows is not None or run.dataset.fingerprint is not None
    if not run.method.trains:
        return []
    if card is None:
        return ["no account of the training data"]
    if card.complete is True or not (pinned or card.complete is False):
        return []
    state = "not complete" if card.complete is False else "not known to be complete"
    return [f"training data {run.dataset.name} is {state} ({card.rows} rows)"]


@dataclass(frozen=True)
class Refused:
    """A finished run whose record a table refuses, if running it again can fix that. reason: in a few words."""

    name: str
    run: RunConfig
    run_id: str
    reason: str


def refused(keys: Iterable[str], cells: Iterable[Cell], store: Store) -> list[Refused]:
    """Return the records that a table (or tuning) on some scores refuses, required ones too, each once.

    Problems that another run would not fix are left out: settings, and scores that the evaluation does not produce.
    """
    out: dict[str, Refused] = {}
    keys = tuple(keys)
    for cell in cells:
        if hole(store, cell.run_id) is not None:
            continue
        for run, number in cell.before:
            if hole(store, number) is None and (wrong := of_tree(store.records[number])):
                out.setdefault(number, Refused(f"{called(run, cell.run)} for {cell.name}", run, number, wrong[0]))
        if wrong := _mendable(keys, cell, store):
            out.setdefault(cell.run_id, Refused(cell.name, cell.run, cell.run_id, "; ".join(wrong)))
    return list(out.values())


def _mendable(keys: tuple[str, ...], cell: Cell, store: Store) -> list[str]:
    record = store.records[cell.run_id]
    out = of_tree(record) + _of_data(record, cell.run) + _of_required(cell, store)
    if cell.run.eval.limit is None:
        scores = ((key, score_of(record, key)) for key in keys)
        out += [what for key, score in scores if score is not None for what in of_score(key, score)]
    return out


def foreseen(keys: Iterable[str], cells: list[Cell], store: Store, to_run: int) -> list[str]:
    """Return why a table would be refused whatever the results of its missing runs, one line each, with the fix.

    to_run: number of missing runs. Checked before the first one starts: afterwards days may be lost.
    """
    found: dict[str, list[str]] = {}
    for cell in cells:
        for what in of_settings(cell.run):
            found.setdefault(what, []).append(cell.name)
    out = [f"{what}: {listed(names)}" for what, names in found.items()]
    reasons: dict[str, list[str]] = {}
    for one in refused(keys, cells, store):
        reasons.setdefault(one.reason, []).append(one.name)
    out += [f"{what}: {listed(names)} (--replace of `todo` moves such records away)" for what, names in reasons.items()]
    if to_run and (why := dirt()) is not None:
        out.append(f"{why}: commit first, {to_run} {'run is' if to_run == 1 else 'runs are'} to be made")
    return out


def of_score(key: str, score: Score | None) -> list[str]:
    """Return the problems of one evaluation: missing, truncated, on a subset of its data."""
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
