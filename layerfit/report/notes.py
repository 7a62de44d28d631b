"""Notes under a table: how its numbers were made, and what they can show. One or two sentences per note."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from layerfit.config.schema import RunConfig
from layerfit.methods.base import REBUILD, SKIP
from layerfit.report import checks, stats
from layerfit.report.cells import Cell, Store
from layerfit.report.spec import PROFILE, TableSpec, Tuned
from layerfit.report.table import ColumnData, Costs, TableData
from layerfit.report.units import number
from layerfit.report.values import is_score, score_of


def footnotes(
    spec: TableSpec, table: list[Cell], store: Store, tuned: Tuned | None, data: TableData
) -> tuple[str, ...]:
    """Return the notes of a table, in printing order."""
    out = [
        _profile(spec),
        *_holes(data),
        _seeds(spec, data),
        _tasks(data, table, store),
        _test(data),
        *_untested(data),
        _tuning(spec, tuned),
        _training(spec, table),
        _switching(spec, table),
        _costs(data),
        _software(table, store),
        *checks.notes(table, store),
        *_published(spec),
        *spec.footnotes,
    ]
    return tuple(text for text in out if text)


def _profile(spec: TableSpec) -> str:
    """Return the replacements of an embedded profile."""
    if not spec.name.endswith(PROFILE):
        return ""
    pairs = "; ".join(f"{text} is {by or 'left out'}" for text, by in spec.stands_for)
    return (
        "Embedded profile: a model of about a million parameters stands for each model, an invented world for each "
        "data set and task; it shows the path and decides nothing about published numbers, which are of other "
        f"models and tasks and stand beside ours for orientation. Replaced: {pairs}."
    )


def _holes(data: TableData) -> list[str]:
    """Return the reasons for missing numbers of columns, rows and single runs. A run without a record is a problem."""
    out = [f"{c.column.label}: no number. {c.column.hole}" for c in data.columns if c.column.hole is not None]
    rows = checks.by_value({row.label: row.hole for row in data.rows if row.hole is not None})
    out += [f"{_names(labels)}: {why}." for why, labels in rows.items()]
    full = {hole for row in data.rows for entry in row.entries for hole in entry.holes if ": oom" in hole}
    return out + [f"No number for {hole}." for hole in sorted(full)]


def _seeds(spec: TableSpec, data: TableData) -> str:
    single = [row.label for row in data.rows if not row.trains and row.hole is None]
    what = "seeds" if spec.vary == "seed" else f"values of {spec.vary}, which alone varies,"
    seeds = f"Mean ± standard deviation over {len(spec.seeds)} {what} ({_range(spec.seeds)})."
    if len(spec.seeds) == 1:
        seeds = f"One seed ({spec.seeds[0]}): no spread, and nothing is tested over seeds."
    return seeds + (f" {_names(single)}: one run, nothing is drawn." if single else "")


def _range(values: tuple[int, ...]) -> str:
    """Return `0-4` for consecutive numbers, `0, 2, 5` otherwise."""
    consecutive = len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1))
    return f"{values[0]}-{values[-1]}" if consecutive else ", ".join(map(str, values))


def _tasks(data: TableData, table: list[Cell], store: Store) -> str:
    out = []
    for shown in data.columns:
        column, records = shown.column, checks.usable(table, store)
        score = next((s for _, r in records if (s := score_of(r, column.key))), None)
        better = "" if score is None or score.higher_is_better else ", lower is better"
        if score is not None and not is_score(str(column.key)):
            out.append(f"{column.label}: {column.key}{better}")
        elif score is not None:
            unit = " in percent" if column.unit == "percent" else ""
            out.append(
                f"{column.label}: {column.key}{unit}{better}, {score.num_items:,} items, "
                f"{score.num_fewshot}-shot, task version {score.version}"
            )
    return "; ".join(out) + "." if out else ""


def _test(data: TableData) -> str:
    if not any(column.comparisons for column in data.columns):
        return ""
    seen = ", ".join(
        f"{c.column.label} {_amount(c, c.detectable)}"
        for c in data.columns
        if c.detectable is not None and c.comparisons
    )
    return (
        f"Bold: not shown worse than the column's best at {stats.LEVEL:.0%} (paired over items and seeds, both counted "
        f"as noise; Student t by Cochran's rule; Holm over the methods of a column). "
        f"Worse than best, one mark a column: *** p < 0.001, ** p < 0.01, * p < 0.05, n.s. not shown, - not tested. "
        f"Smallest difference found with {stats.POWER:.0%} power (median over a column's comparisons, Holm's first "
        f"level): {seen}."
    )


def _amount(shown: ColumnData, value: float) -> str:
    percent = shown.column.unit == "percent"
    if percent and value > 1:
        return "none that fits the scale"
    return number(value, shown.column.unit) + (" points" if percent else "")


def _untested(data: TableData) -> list[str]:
    found: dict[str, list[str]] = {}
    for index, shown in enumerate(data.columns):
        for row in data.rows:
            result = row.entries[index].against_best
            if isinstance(result, stats.NotTestable):
                found.setdefault(f"Not tested in {shown.column.label} ({result.reason})", []).append(row.label)
    return [f"{what}: {_names(labels)}." for what, labels in found.items()]


def _tuning(spec: TableSpec, tuned: Tuned | None) -> str:
    if tuned is None:
        return "No tuning: every row runs with the settings of its table file."
    entries = {r.label: spec.tuned_entry(r, tuned.chosen) or r.label for r in spec.rows if r.hole is None}
    rows = list(dict.fromkeys(e for e in entries.values() if tuned.chosen[e] or e in tuned.searched))
    fixed = [label for label, entry in entries.items() if entry not in rows]
    out = (
        f"Tuning (conf/tuned/{tuned.name}.yaml): {tuned.trials} trials a row, each on the seeds {_range(tuned.seeds)}, "
        f"on items that are not in this table. " + "; ".join(_choice(label, tuned) for label in rows) + "."
    )
    tuned_rows = [label for label, entry in entries.items() if entry in rows]
    taken = _called([label for label in tuned_rows if label != entries[label]], spec, tuned_rows)
    out += f" Taken over from there, not tuned again: {_names(taken)}." if taken else ""
    return out + (f" Not tuned: {_names(fixed)}." if fixed else "")


def _choice(label: str, tuned: Tuned) -> str:
    """Return `<row>: optim.lr=0.003 of 0.001, 0.003, 0.01`."""
    parts = []
    searched = tuned.searched.get(label, {})
    for override in tuned.chosen[label]:
        values = searched.get(override.partition("=")[0])
        edge = " (the last value tried)" if override.partition("=")[0] in tuned.edges.get(label, ()) else ""
        parts.append(override + (f" of {', '.join(map(str, values))}" if values else "") + edge)
    return f"{label}: {', '.join(parts)}"


def _shared(spec: TableSpec, table: list[Cell], value: Callable[[RunConfig], Any]) -> str:
    """Return a setting that all rows share, or each value with its rows."""
    groups = checks.by_value({cell.row: value(cell.run) for cell in table if cell.run.method.trains})
    if len(groups) == 1:
        return next(iter(groups))
    trained = {label for labels in groups.values() for label in labels}
    return ", ".join(f"{text} ({_names(_called(labels, spec, trained), 4)})" for text, labels in groups.items())


def _training(spec: TableSpec, table: list[Cell]) -> str:
    if not any(cell.run.method.trains for cell in table):
        return ""

    def length(run: RunConfig) -> str:
        return f"{run.training.max_steps} steps" if run.training.max_steps else f"{run.training.epochs:g} epochs"

    model, dataset = _shared(spec, table, lambda r: r.model.name), _shared(spec, table, lambda r: r.dataset.name)
    loss = _shared(spec, table, lambda r: "all tokens" if r.training.loss_on_prompt else "the response only")
    steps, size = _shared(spec, table, length), _shared(spec, table, lambda r: r.training.batch_size)
    return (
        f"Model {model}, data {dataset}, {steps} of {size} sequences; loss on {loss}; "
        f"weights in {_shared(spec, table, lambda r: r.training.dtype)}, optimizer precision "
        f"{_shared(spec, table, lambda r: r.optim.precision)}."
    )


def _switching(spec: TableSpec, table: list[Cell]) -> str:
    first = {cell.row: cell.run for cell in reversed(table) if cell.run.method.trains}
    if not first:
        return ""
    groups = checks.by_value({row: _policy(run) for row, run in reversed(first.items())})
    out = f"Engine {_shared(spec, table, lambda r: r.engine.name)}."
    for text, labels in groups.items():
        out += f" {text}: {_names(_called(labels, spec, first))}." if text else ""
    return out


def _policy(run: RunConfig) -> str:
    """Return the treatment of optimizer state when a run's plan changes, '' if it never does."""
    if run.method.switching == REBUILD:
        policy = run.method.switch_policy()
        return f"A switch rebuilds the optimizer over what trains (moments {policy.moments}, masters {policy.masters})"
    return "All optimizer state is kept, a step leaves out what does not train" if run.method.switching == SKIP else ""


def _called(labels: list[str], spec: TableSpec, among: Collection[str]) -> list[str]:
    """Return row labels, the group's name in place of all its labels. among: the eligible rows."""
    groups: dict[str, list[str]] = {}
    for row in spec.rows:
        if row.label in among:
            groups.setdefault(row.group or row.label, []).append(row.label)
    out: list[str] = []
    for group, rows in groups.items():
        meant = [label for label in rows if label in labels]
        out += [group] if meant == rows else meant
    return out


def _names(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit + 1 else ""
    return ", ".join(names[:limit] if more else names) + more


def _memory(costs: Costs) -> str:
    """Return what a row's memory is."""
    if not costs.counted:
        return "peak allocated"
    when = "at the first step" if costs.first_step else "at their largest"
    return f"counted: weights, gradients, optimizer state and activations {when}"


def _costs(data: TableData) -> str:
    rows = [row for row in data.rows if row.trains]
    if not rows:
        return ""
    unknown = checks.by_value({f"{r.label}/{text}": text for r in rows for text in r.costs.unknown})
    groups = checks.by_value({row.label: _memory(row.costs) for row in rows})
    memory = "; ".join(text + (f" ({_names(labels)})" if len(groups) > 1 else "") for text, labels in groups.items())
    out = (
        f"Memory: {memory}. Trained: parameters that were updated at some step. "
        "Tokens, seconds: training, with probes and required runs, mean over seeds."
    )
    return out + "".join(
        f" Not known: {text} ({_names(n.rpartition('/' + text)[0] for n in names)})." for text, names in unknown.items()
    )


def _software(table: list[Cell], store: Store) -> str:
    have = checks.usable(table, store)
    if not have:
        return ""
    parts = []
    for package in ("lm_eval", *checks.PACKAGES):
        found = sorted({checks.version(record, package) for _, record in have})
        parts.append(f"{package} {' and '.join(found)}")
    return "Software: " + ", ".join(parts) + "."


def _published(spec: TableSpec) -> list[str]:
    sources = sorted({cell.source for cells in spec.published.values() for cell in cells.values()})
    return [f"Published numbers, copied, never merged with ours: {'; '.join(sources)}."] if sources else []
