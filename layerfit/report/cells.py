"""The cells of a table: every (row, seed) composed and looked up by its run id. Missing cells are the work queue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from layerfit.config import composed, required_runs, run_id, told, typed
from layerfit.config.schema import RunConfig
from layerfit.errors import UserError
from layerfit.records.record import Items, Record, read, read_items
from layerfit.report.spec import TableSpec, Tuned, load_tuned


@dataclass(frozen=True)
class Cell:
    """One run of a table. seed: None where the method trains nothing: one run for all seeds."""

    row: str
    seed: int | None
    overrides: tuple[str, ...]
    run: RunConfig
    run_id: str

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
    """The records and per-item outcomes of a table's cells, and of the runs they require, by run id."""

    records: dict[str, Record]
    items: dict[str, Items]


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

    Hydra composes once (0.1 s); each seed is then set in the composed config, which is resolved again (3 ms), so that
    values interpolated from the run's seed follow it, and pinned values stay.

    Raises:
        UserError: if the overrides do not compose.
    """
    out: list[tuple[int | None, RunConfig]] = []
    with told(overrides):
        config = composed((*overrides, f"paths.results={results}"))
        for seed in seeds:
            OmegaConf.update(config, vary, seed)
            run = typed(config)
            if not run.method.trains:
                return [(None, run)]
            out.append((seed, run))
    return out


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
    """Read every record that a table can use.

    Raises:
        UserError: if a file is not a record.
    """
    records: dict[str, Record] = {}
    items: dict[str, Items] = {}
    try:
        for cell in table:
            for name in (cell.run_id, *map(run_id, required(cell.run))):
                record = read(results, name)
                if record is not None:
                    records[name] = record
            if cell.run_id in records:
                items[cell.run_id] = read_items(results, cell.run_id)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(str(error)) from error
    return Store(records, items)


def hole(store: Store, name: str) -> str | None:
    """Return why a run has no numbers (`no record`, `diverged: loss is NaN at step 12`), None if it has."""
    record = store.records.get(name)
    if record is None:
        return "no record"
    if record.result.status == "ok":
        return None
    return f"{record.result.status}: {record.result.message}" if record.result.message else record.result.status


def queue(table: list[Cell], store: Store) -> list[Todo]:
    """Return the runs that are still to do, each once, a required run before the runs that need it."""
    out: dict[str, Todo] = {}
    for cell in table:
        if hole(store, cell.run_id) is None:
            continue
        for run in (*required(cell.run), cell.run):
            name = run_id(run)
            reason = hole(store, name)
            if reason is not None and name not in out:
                title = cell.name if name == cell.run_id else f"{called(run, cell.run)} for {cell.name}"
                out[name] = Todo(title, run, name, reason)
    first = {run_id(run) for cell in table for run in required(cell.run)}
    return sorted(out.values(), key=lambda todo: todo.run_id not in first)
