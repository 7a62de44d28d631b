"""The cells of a table: every (row, seed) composed and looked up by its run id. Missing cells are the work queue."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from layerfit.config import composed, required_runs, run_id, typed, user_errors
from layerfit.config.schema import RunConfig
from layerfit.errors import UserError
from layerfit.records.record import Broken, Items, Record, read_whole
from layerfit.report.spec import TableSpec, Tuned, load_tuned


class Before(NamedTuple):
    """A run that another one requires, under its id."""

    run: RunConfig
    run_id: str


@dataclass(frozen=True)
class Cell:
    """One run of a table. seed: None where the method trains nothing: one run for all seeds."""

    row: str
    seed: int | None
    overrides: tuple[str, ...]
    run: RunConfig
    run_id: str

    @cached_property
    def before(self) -> tuple[Before, ...]:
        """The runs that must exist before this one, in the order of running; composed and hashed once."""
        return tuple(Before(run, run_id(run)) for run in required(self.run))

    @property
    def name(self) -> str:
        """`<row>, seed 3`, for messages."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"


@dataclass(frozen=True)
class Todo:
    """A run without a usable record, and the reason: `no record`, or the status of its record."""

    name: str
    run: RunConfig
    run_id: str
    reason: str


@dataclass(frozen=True)
class Store:
    """The records and per-item outcomes of a table's cells, and of the runs they require, by run id.

    broken: what is wrong with a file that cannot be a run's record, which so has none; a sweep sets it aside.
    """

    records: dict[str, Record]
    items: dict[str, Items]
    broken: dict[str, str] = field(default_factory=dict)


def merge(*lists: Iterable[str]) -> tuple[str, ...]:
    """Join overrides; of two with the same key the later one wins, at the earlier one's position."""
    out: dict[str, str] = {}
    for overrides in lists:
        for text in overrides:
            out[text.partition("=")[0]] = text
    return tuple(out.values())


def expand(
    overrides: tuple[str, ...], seeds: tuple[int, ...], results: str, vary: str = "seed"
) -> list[tuple[int | None, RunConfig]]:
    """Compose one run for every seed, inside `config.composer()`; a method that trains nothing has one run, seed None.

    vary: the key that a seed sets: the run's, or one that defaults to it (`method.seed`: the draw alone).

    Hydra composes once (0.1 s) and the first seed's config is resolved (3 ms); the runs of the others are copies of
    it, except where a value is interpolated from a seed: there each is resolved, so that the value follows it.

    Raises:
        UserError: if the overrides do not compose.
    """
    out: list[tuple[int | None, RunConfig]] = []
    with user_errors(overrides):
        config = composed((*overrides, f"paths.results={results}"))
        alike = vary in ("seed", "method.seed") and not _follows_seed(config)
        for seed in seeds:
            if alike and out:
                out.append((seed, _with_seed(out[0][1], config, vary, seed)))
                continue
            OmegaConf.update(config, vary, seed)
            run = typed(config)
            if not run.method.trains:
                return [(None, run)]
            out.append((seed, run))
    return out


def _follows_seed(config: DictConfig) -> bool:
    """Return whether a value other than a seed may differ between seeds: by interpolation, or by data of rankings."""
    text = json.dumps(OmegaConf.to_container(config, resolve=False), default=str)
    return bool(config.ranking_data) or any("seed" in found for found in re.findall(r"\$\{[^\"]*", text))


def _with_seed(run: RunConfig, config: DictConfig, vary: str, seed: int) -> RunConfig:
    """Return a composed run with another seed; `config` says which seeds are pinned, and which follow the run's."""
    if vary == "method.seed":
        return replace(run, method=replace(run.method, seed=seed))
    method = replace(run.method, seed=config.method.seed)
    return replace(run, seed=seed, method=method, dataset=replace(run.dataset, seed=config.dataset.seed))


def cells(spec: TableSpec, extra: tuple[str, ...] = ()) -> list[Cell]:
    """Return the cells of a table in printing order, inside `config.composer()`.

    extra: overrides on top of every row's, from the command line.

    Raises:
        UserError: naming the row that does not compose, or the missing tuned values.
    """
    return row_cells(spec, load_tuned(spec), extra)


def row_cells(spec: TableSpec, tuned: Tuned | None, extra: tuple[str, ...] = ()) -> list[Cell]:
    """As `cells`, with the tuned values already read."""
    out: list[Cell] = []
    for row in spec.rows:
        if row.hole is not None:
            continue
        entry = spec.tuned_entry(row, tuned.chosen) if tuned else None
        overrides = merge(spec.base, row.overrides, tuned.chosen[entry] if tuned and entry else (), extra)
        try:
            runs = expand(overrides, spec.seeds, spec.results, spec.vary)
        except UserError as error:
            raise UserError(f"table {spec.name}, row {row.label}: {error}") from error
        for seed, run in runs:
            run.label = row.label  # its name on screen
            shown = overrides if seed is None else (*overrides, f"{spec.vary}={seed}")
            out.append(Cell(row.label, seed, shown, run, run_id(run)))
    by_id: dict[str, Cell] = {}
    for cell in out:
        twin = by_id.setdefault(cell.run_id, cell)
        if twin.row != cell.row:
            raise UserError(f"table {spec.name}: rows {twin.row} and {cell.row} are the same run; change or drop one")
    return out


def required(run: RunConfig) -> list[RunConfig]:
    """Return the runs that must exist before this one, in the order of running."""
    return [each for before in required_runs(run) for each in (*required(before), before)]


def called(before: RunConfig, run: RunConfig) -> str:
    """Return the name of a required run: `ila_ranking`, with its data set where that is not the run's own."""
    other = "" if before.dataset == run.dataset else f" on {before.dataset.name}"
    return f"{before.method_name()}{other}"


def load(table: list[Cell], results: str | Path) -> Store:
    """Read every record that a table can use, once.

    Raises:
        UserError: if one is newer than this layerfit, or must not be read.
    """
    store = Store({}, {})
    own = {cell.run_id for cell in table}
    for name in dict.fromkeys(name for cell in table for name in (cell.run_id, *(b.run_id for b in cell.before))):
        try:
            found = read_whole(results, name)
        except Broken as error:
            store.broken[name] = f"broken record {error.path.name}: {error.what}"
            continue
        if found is not None:
            store.records[name] = found[0]
            if name in own:
                store.items[name] = found[1]
    return store


def hole(store: Store, name: str) -> str | None:
    """Return why a run has no numbers (`no record`, `diverged: loss is NaN at step 12`), None if it has."""
    record = store.records.get(name)
    if record is None:
        return store.broken.get(name, "no record")
    if record.result.status == "ok":
        return None
    return f"{record.result.status}: {record.result.message}" if record.result.message else record.result.status


def queue(table: list[Cell], store: Store) -> list[Todo]:
    """Return the runs that are still to do, each once, a required run before the runs that need it."""
    out: dict[str, Todo] = {}
    for cell in table:
        if hole(store, cell.run_id) is None:
            continue
        for run, name in (*cell.before, (cell.run, cell.run_id)):
            reason = hole(store, name)
            if reason is not None and name not in out:
                title = cell.name if name == cell.run_id else f"{called(run, cell.run)} for {cell.name}"
                out[name] = Todo(title, run, name, reason)
    first = {before.run_id for cell in table for before in cell.before}
    return sorted(out.values(), key=lambda todo: todo.run_id not in first)
