"""Tuning: the same number of trials for every row, on other seeds and items; the best mean objective is chosen.

A best value at an end of its range shows that the range was too short: no values are written until it is extended, or
the edge is accepted, which the file then records.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from layerfit.config import run_id
from layerfit.errors import UserError
from layerfit.records.record import Record, Score
from layerfit.report.cells import Cell, Store, expand, hole, merge
from layerfit.report.checks import listed, of_score, provenance
from layerfit.report.reading import Value
from layerfit.report.spec import TableSpec, Tuning
from layerfit.report.values import score_of

Point = dict[str, Value]


@dataclass(frozen=True)
class Trial:
    """One grid point of one row, with one run per seed."""

    row: str
    point: Point
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Outcome:
    """A trial's scores. values: objective by tuning seed. mean: None if a seed diverged; such a trial loses."""

    trial: Trial
    values: tuple[float | None, ...]
    mean: float | None
    message: str | None


@dataclass(frozen=True)
class Choice:
    """The best trial of a row. edges: knobs whose best value is the first or last of its range."""

    row: str
    best: Outcome
    outcomes: tuple[Outcome, ...]
    edges: tuple[str, ...]


def section(spec: TableSpec) -> Tuning:
    """Return a table's tuning section.

    Raises:
        UserError: if it has none.
    """
    if spec.tuning is None:
        raise UserError(f"{spec.file} has no section `tuning` (seeds, objective, trials, grid); add it")
    return spec.tuning


def points(knobs: dict[str, tuple[Value, ...]]) -> list[Point]:
    """Return every combination of the values of a row's knobs."""
    return [dict(zip(knobs, values, strict=True)) for values in product(*knobs.values())]


def override(knob: str, value: Value) -> str:
    """Return a Hydra override: `optim.lr=0.001`, `training.packing=true`."""
    return f"{knob}={str(value).lower() if isinstance(value, bool) else value}"


def trials(spec: TableSpec) -> list[Trial]:
    """Compose every trial of a table, inside `config.composer()`.

    Raises:
        UserError: if a row that trains has no grid, one that does not has one, or a point does not compose.
    """
    tuning = section(spec)
    out: list[Trial] = []
    for row in spec.rows:
        grid = tuning.grid.get(row.label)
        if row.hole is not None or (grid is None and spec.borrowed(row)):
            continue  # nothing runs, or it takes another row's values
        for point in points(grid) if grid else [Point()]:
            chosen = [override(*item) for item in point.items()]
            overrides = merge(spec.base, row.overrides, tuning.base, chosen)
            try:
                runs = expand(overrides, tuning.seeds, spec.results)
            except UserError as error:
                raise UserError(f"tuning {spec.name}, row {row.label}: {error}") from error
            if runs[0][1].method.trains != (grid is not None):
                what = "trains nothing: take it out" if grid else f"has no trials: give it {tuning.trials}"
                raise UserError(f"{spec.file}: tuning.grid: row {row.label!r} {what}")
            if grid:
                made = tuple(Cell(row.label, seed, overrides, run, run_id(run)) for seed, run in runs)
                out.append(Trial(row.label, point, made))
    _check_distinct(spec, out)
    return out


def _check_distinct(spec: TableSpec, made: list[Trial]) -> None:
    """Refuse a knob without effect: its trials would be the same run."""
    seen: dict[str, Trial] = {}
    for trial in made:
        twin = seen.setdefault(trial.cells[0].run_id, trial)
        if twin is not trial:
            raise UserError(
                f"{spec.file}: tuning.grid.{trial.row}: {trial.point} and {twin.row}'s {twin.point} "
                f"are the same run; every trial must differ"
            )


def objective(record: Record, weights: dict[str, float]) -> float:
    """Return the weighted mean of a run's scores; where lower is better a score counts negatively."""
    scores = [(score_of(record, key), weight) for key, weight in weights.items()]
    total = sum(weight * _gain(score) for score, weight in scores if score is not None)
    return total / sum(weights.values())


def _gain(score: Score) -> float:
    return score.value if score.higher_is_better else -score.value


def choose(spec: TableSpec, made: list[Trial], store: Store) -> list[Choice]:
    """Return the best trial of every tuned row. A tie goes to the first in the grid.

    Raises:
        UserError: if a trial is missing or cannot be counted, or every trial of a row diverged.
    """
    tuning = section(spec)
    bad = [text for trial in made for cell in trial.cells if (text := _unfit(cell, store, tuning))]
    if bad:
        raise UserError(f"tuning {spec.name}: {len(bad)} trials cannot be counted: {listed(bad)}")
    out: list[Choice] = []
    for label, knobs in tuning.grid.items():
        outcomes = tuple(_outcome(trial, store, tuning) for trial in made if trial.row == label)
        finished = [outcome for outcome in outcomes if outcome.mean is not None]
        if not finished:
            raise UserError(f"tuning {spec.name}: every trial of {label} diverged; change its grid")
        best = max(finished, key=lambda outcome: outcome.mean or 0.0)
        out.append(Choice(label, best, outcomes, edges(best.trial.point, knobs)))
    return out


def edges(point: Point, knobs: dict[str, tuple[Value, ...]]) -> tuple[str, ...]:
    """Return the knobs whose value is an end of its range.

    Three numbers or more are a range; two numbers, or words, are a choice without ends.
    """
    out = []
    for knob, values in knobs.items():
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(values) > 2 and len(numbers) == len(values) and point[knob] in (min(numbers), max(numbers)):
            out.append(knob)
    return tuple(out)


def _unfit(cell: Cell, store: Store, tuning: Tuning) -> str | None:
    """Return why a trial's run cannot be counted, None if it can. A diverged run counts, and loses."""
    name = f"{cell.name} ({cell.run_id})"
    record = store.records.get(cell.run_id)
    if record is not None and record.result.status == "diverged":
        return None
    reason = hole(store, cell.run_id)
    if record is None or reason is not None:
        return f"{name}: {reason}"
    wrong = provenance(record, cell)
    for key in tuning.objective:
        wrong += of_score(key, score_of(record, key))
    return f"{name}: {wrong[0]}" if wrong else None


def _outcome(trial: Trial, store: Store, tuning: Tuning) -> Outcome:
    records = [store.records[cell.run_id] for cell in trial.cells]
    values = tuple(objective(r, tuning.objective) if r.result.status == "ok" else None for r in records)
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if len(known) == len(values) else None
    message = next((f"{r.result.status}: {r.result.message}" for r in records if r.result.status != "ok"), None)
    return Outcome(trial, values, mean, message)


def tuned_file(spec: TableSpec, choices: list[Choice]) -> str:
    """Return the text of `conf/tuned/<T>.yaml`."""
    from yaml import safe_dump

    tuning = section(spec)
    total = sum(tuning.objective.values())
    chosen: dict[str, list[str]] = {
        row.label: [] for row in spec.rows if row.hole is None and spec.borrowed(row) is None
    }
    chosen |= {c.row: [override(*item) for item in c.best.trial.point.items()] for c in choices}
    head = [
        f"# Written by `make tune T={spec.name}`. All trials: {spec.results}/tuning/{spec.name}.json.",
        f"# Every row: {tuning.trials} trials, each on the seeds {', '.join(map(str, tuning.seeds))}.",
        f"# Overrides while tuning: {' '.join(tuning.base) or 'none'}. Best mean objective by row, the objective being",
        "# " + " + ".join(f"{weight / total:g} {key}" for key, weight in tuning.objective.items()) + ":",
        *(f"#   {c.row}: {c.best.mean:.4f}" for c in choices),
    ]
    body = {
        "trials": tuning.trials,
        "seeds": list(tuning.seeds),
        "chosen": chosen,
        "searched": {row: {knob: list(v) for knob, v in knobs.items()} for row, knobs in tuning.grid.items()},
        "edges": {c.row: list(c.edges) for c in choices if c.edges},
    }
    return "\n".join(head) + "\n\n" + safe_dump(body, sort_keys=False, default_flow_style=None, width=110)


def trials_file(spec: TableSpec, choices: list[Choice]) -> dict[str, Any]:
    """Return every trial as JSON: `results/tuning/<T>.json`."""
    tuning = section(spec)

    def trial(outcome: Outcome) -> dict[str, Any]:
        return {
            "point": outcome.trial.point,
            "overrides": list(outcome.trial.cells[0].overrides),
            "runs": {str(cell.seed): cell.run_id for cell in outcome.trial.cells},
            "objective": list(outcome.values),
            "mean": outcome.mean,
            "message": outcome.message,
        }

    return {
        "table": spec.name,
        "seeds": list(tuning.seeds),
        "objective": tuning.objective,
        "rows": {
            c.row: {
                "chosen": c.best.trial.point,
                "mean": c.best.mean,
                "edges": list(c.edges),
                "trials": [trial(outcome) for outcome in c.outcomes],
            }
            for c in choices
        },
    }
