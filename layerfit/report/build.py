"""From a table's name to its files: read records, check, compute, write. Input and output are here, the steps pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from layerfit.config import parse
from layerfit.config.schema import RunConfig
from layerfit.errors import UserError
from layerfit.files.writing import write_atomically
from layerfit.records.aside import set_aside
from layerfit.report import cells, checks, notes, render, spec, table, tune, views
from layerfit.report.cells import Cell, Store, Todo
from layerfit.report.checks import Refused
from layerfit.report.spec import TableSpec, Tuned

DRAFTS = Path("outputs/drafts")
"""Folder of drafts, apart from finished tables."""


@dataclass(frozen=True)
class LoadedTable:
    """A table's spec, cells and records, read once."""

    spec: TableSpec
    tuned: Tuned | None
    cells: list[Cell]
    store: Store

    def todo(self) -> list[Todo]:
        """Return the runs still to do, required runs first."""
        return cells.queue(self.cells, self.store)

    def refused(self) -> list[Refused]:
        """Return the finished runs whose records the table refuses, if running them again can fix that."""
        return checks.refused(self.keys(), self.cells, self.store)

    def foreseen(self) -> list[str]:
        """Return the reasons to refuse the table that are known before its missing runs start."""
        return checks.foreseen(self.keys(), self.cells, self.store, len(self.todo()))

    def keys(self) -> list[str]:
        """Return the scores that the table shows."""
        return [column.key for column in self.spec.columns if column.key is not None]


def load(name: str, extra: tuple[str, ...] = ()) -> LoadedTable:
    """Read a table's spec, tuned values and records, inside `config.composer()`.

    Raises:
        UserError: if the spec, the tuned values or a record is invalid.
    """
    read = spec.load(name)
    tuned = spec.load_tuned(read)
    made = cells.row_cells(read, tuned, extra)
    return LoadedTable(read, tuned, made, cells.load(made, read.results))


def load_elsewhere(name: str, extra: tuple[str, ...]) -> LoadedTable:
    """As `load`, with overrides from the command line for where and how runs are executed.

    Raises:
        UserError: if they change the identity of the table's runs.
    """
    fix = f"edit conf/table/{name}.yaml or copy it"
    if own := [word for word in extra if word.lstrip("+~").partition("=")[0] in ("seed", "paths.results")]:
        raise UserError(f"{own[0]}: a table sets seeds and results itself; {fix}")
    parse(extra)
    read = spec.load(name)
    first = replace(read, rows=tuple(row for row in read.rows if row.hole is None)[:1], seeds=read.seeds[:1])
    tuned = spec.load_tuned(read)
    if _ids(cells.row_cells(first, tuned, extra)) != _ids(cells.row_cells(first, tuned)):  # before all are composed
        raise UserError(f"{' '.join(extra)} changes the runs of the table's rows; {fix}")
    plain = load(name)
    try:
        loaded = load(name, extra)
    except UserError as error:
        raise UserError(f"with {' '.join(extra)}: {error}") from error
    if _ids(loaded.cells) != _ids(plain.cells):
        raise UserError(f"{' '.join(extra)} changes the runs of the table's rows; {fix}")
    return loaded


def _ids(made: list[Cell]) -> list[str]:
    return [cell.run_id for cell in made]


def assemble(loaded: LoadedTable, *, draft: bool = False, gates: Sequence[table.TableGate] = ()) -> table.TableData:
    """Return a table ready to print. With `problems` it must not be printed, unless as a draft.

    gates: conditions on the whole table, evaluated elsewhere (`world.gates`), printed under it.
    """
    found = checks.problems(loaded.spec, loaded.cells, loaded.store)
    data = table.build(loaded.spec, loaded.cells, loaded.store)
    data = replace(data, matrices=tuple(views.compute(loaded.spec, loaded.cells, loaded.store)))
    under = notes.footnotes(loaded.spec, loaded.cells, loaded.store, loaded.tuned, data)
    decided = tuple(gates) or world_gates(loaded.spec, data)
    # A draft without problems is a finished table: it must not be marked DRAFT.
    return replace(data, draft=draft and bool(found), problems=tuple(found), footnotes=under, gates=decided)


def world_gates(read: TableSpec, data: table.TableData) -> tuple[table.TableGate, ...]:
    """Return the gates of the embedded world for a table with a section `gates`, () for any other.

    The section names the gated columns (default: all), the table whose rows train one block each (`location`), and sets
    fields of `world.gates.Evidence`: the rows `untrained` and `full`, the accuracy of guessing, `chance`.

    Raises:
        UserError: if the section has an unknown key or column.
    """
    if read.gates is None:
        return ()
    from layerfit.world.gates import Evidence, gates

    settings = dict(read.gates)
    labels = [shown.column.label for shown in data.columns]
    gated = settings.pop("columns", labels)
    unknown = [name for name in gated if name not in labels]
    if unknown:
        raise UserError(f"conf/table/{read.name}.yaml: gates.columns={unknown}; columns: {', '.join(labels)}")
    location = settings.pop("location", None)
    blocks = _block_scores(location) if location else None
    scores = {
        row.label: {name: [v for _, v in entry.values] for name, entry in zip(labels, row.entries, strict=True)}
        for row in data.rows
    }
    items = {c.column.label: c.num_items for c in data.columns if c.num_items and c.column.label in gated}
    if not items:  # nothing has run yet
        return ()
    still = frozenset(row.label for row in data.rows if not row.trains)
    try:
        evidence = Evidence(scores=scores, items=items, not_methods=still, location=blocks, **settings)
        return tuple(table.TableGate(gate.name, gate.passed, gate.detail) for gate in gates(evidence))
    except (TypeError, ValueError) as error:
        raise UserError(f"conf/table/{read.name}.yaml: gates: {error}") from error


def _block_scores(name: str) -> dict[int, dict[str, float]]:
    """Return the mean scores by block and column of a table whose row number i trains block i alone."""
    loaded = load(name)
    data = table.build(loaded.spec, loaded.cells, loaded.store)
    labels = [column.label for column in loaded.spec.columns]
    return {
        index: {c: e.mean for c, e in zip(labels, row.entries, strict=True) if e.mean is not None}
        for index, row in enumerate(data.rows)
    }


def write(loaded: LoadedTable, data: table.TableData, *, figures: bool = True) -> list[Path]:
    """Write a table's Markdown, LaTeX and figures; return their paths.

    Raises:
        UserError: if the table has problems and is no draft.
    """
    if data.problems and not data.draft:
        raise UserError(f"table {data.name} is refused: {len(data.problems)} problems; --draft prints it all the same")
    root = DRAFTS if data.draft else Path(loaded.spec.results)
    files = {
        root / "tables" / f"{data.name}.md": render.markdown(data).encode(),
        root / "tables" / f"{data.name}.tex": render.latex(data).encode(),
    }
    if figures:
        from layerfit.report import figure

        files |= {root / "figures" / f"{data.name}.{kind}": text for kind, text in figure.draw(data).items()}
        # Figures of matrices are numbered: remove surplus ones of an earlier rendering.
        for path in (root / "figures").glob(f"{data.name}.[0-9]*.p[nd][gf]"):
            if path not in files:
                path.unlink()
    for path, text in files.items():
        write_atomically(path, text)
    return list(files)


def committed() -> list[str]:
    """Return the tables that are rendered beside their records: `make tables` keeps these up to date."""
    return [name for name in spec.known() if (Path(spec.load(name).results) / "tables" / f"{name}.md").exists()]


def tuning_runs(read: TableSpec, trials: list[tune.Trial]) -> list[RunConfig]:
    """Return the runs of trials that are still to do. A diverged one has lost and is not run again."""
    made = [cell for trial in trials for cell in trial.cells]
    todo = cells.queue(made, cells.load(made, read.results))
    return [item.run for item in todo if not item.reason.startswith("diverged")]


def replace_records(found: Sequence[Refused]) -> list[Path]:
    """Move refused records away so that their runs run again; return the folders that hold them now."""
    places: dict[tuple[str, str], list[str]] = {}
    for one in found:
        places.setdefault((one.run.paths.results, one.run.paths.outputs), []).append(one.run_id)
    return [folder for place, run_ids in places.items() for folder in set_aside(run_ids, *place)]


def refused_trials(read: TableSpec, trials: list[tune.Trial]) -> list[Refused]:
    """Return the trials' records that tuning cannot count, if running them again can fix that."""
    made = [cell for trial in trials for cell in trial.cells]
    return checks.refused(tune.section(read).objective, made, cells.load(made, read.results))


def finish_tuning(
    read: TableSpec, trials: list[tune.Trial], conf: Path, *, allow_edge: bool = False
) -> list[tune.Choice]:
    """Choose from finished trials; write all trials, and the chosen values if inside the grid (or with `allow_edge`).

    conf: the folder in whose `tuned/` the chosen values are written.

    Raises:
        UserError: if trials are missing.
    """
    store = cells.load([cell for trial in trials for cell in trial.cells], read.results)
    choices = tune.choose(read, trials, store)
    text = json.dumps(tune.trials_file(read, choices), indent=1, allow_nan=False) + "\n"
    write_atomically(Path(read.results) / "tuning" / f"{read.name}.json", text.encode())
    if allow_edge or not any(choice.edges for choice in choices):
        write_atomically(conf / "tuned" / f"{read.name}.yaml", tune.tuned_file(read, choices).encode())
    return choices
