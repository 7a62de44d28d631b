"""Content of the report, read once: tables with their state, figures, records, claims."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from layerfit.errors import UserError
from layerfit.installation import command_for
from layerfit.records.record import Record, read_all
from layerfit.report import build, render, spec, table
from layerfit.report.cells import Cell, Store, hole
from layerfit.report.spec import Row, TableSpec
from layerfit.report.table import TableData

RENDERED, DRAFT, NOT_RUN = "rendered", "draft", "not run"
STATES = (RENDERED, DRAFT, NOT_RUN)


@dataclass(frozen=True)
class Table:
    """A table and its state. detail: missing or outdated parts, empty if there are none.

    cells: its runs, () if the table was not composed: no run of its models is recorded, or it needs something that is
    missing (see `detail`). figures: (file name, PNG).
    """

    name: str
    state: str
    detail: str
    spec: TableSpec
    data: TableData
    cells: tuple[Cell, ...] = ()
    figures: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything on the page. elsewhere: (table, folder) of tables whose records are not under `results`."""

    results: str
    tables: tuple[Table, ...]
    elsewhere: tuple[tuple[str, str], ...]
    records: dict[str, Record]
    claims: str | None


def gather(results: str = "results") -> Report:
    """Read every table of conf/table whose records are under `results`, and every record there.

    Only committed files are read: working files in other folders would make the page differ between machines.

    Raises:
        UserError: if a table's file or a record is broken.
    """
    records = read_all(results)
    models = {model_of(record) for record in records.values()}
    read = [spec.load(name) for name in spec.known()]
    tables = [_table(one, Path(results), models) for one in read if Path(one.results) == Path(results)]
    elsewhere = [(one.name, one.results) for one in read if Path(one.results) != Path(results)]
    claims = Path(results) / "claims.md"
    tables.sort(key=lambda one: (STATES.index(one.state), one.name))
    text = claims.read_text() if claims.is_file() else None
    return Report(results, tuple(tables), tuple(elsewhere), records, text)


def model_of(record: Record) -> str | None:
    """Return the name of a run's model, from its configuration."""
    return record.result.config.get("model", {}).get("name")


def named(one: TableSpec, row: Row, group: str) -> str | None:
    """Return a row's choice in a configuration group (`model`, `method`), None if its table makes none."""
    choices = [text.partition("=")[2] for text in (*one.base, *row.overrides) if text.startswith(f"{group}=")]
    return choices[-1] if choices else None


def _table(one: TableSpec, results: Path, models: set[str | None]) -> Table:
    """Return a table with its state; one that cannot be composed is shown without numbers. models: of all records."""
    empty = replace(table.build(one, [], Store({}, {})), footnotes=one.footnotes)
    own = {named(one, row, "model") for row in one.rows if row.hole is None}
    # Hydra takes 0.1 s per choice of groups: a table of other models, which can have no record, is not composed.
    if None not in own and not own & models:
        return Table(one.name, NOT_RUN, "no run of its models is recorded", one, empty)
    try:
        loaded = build.load(one.name)
        data = build.assemble(loaded, draft=True)
    except UserError as error:
        why = str(error).partition(" Config search path")[0]  # it names folders of this machine
        return Table(one.name, NOT_RUN, why, one, empty)
    runs = {cell.run_id for cell in loaded.cells}
    done = sum(hole(loaded.store, run) is None for run in runs)
    made = tuple(loaded.cells)
    if not any(run in loaded.store.records for run in runs):
        return Table(one.name, NOT_RUN, f"0 of {len(runs)} runs", one, data, made)
    if data.problems:  # without figures: an earlier rendering's would show other numbers
        detail = f"{done} of {len(runs)} runs" if done < len(runs) else data.problems[0]
        return Table(one.name, DRAFT, detail, one, data, made)
    figures = tuple((path.name, path.read_bytes()) for path in figure_files(one.name, results))
    return Table(one.name, RENDERED, _stale(data, results), one, data, made, figures)


def figure_files(name: str, results: Path) -> list[Path]:
    """Return a table's committed figures: `<name>.png`, then those of its matrices, `<name>.1.png`, `<name>.2.png`."""
    folder = results / "figures"
    numbered = [folder / f"{name}.png"]
    while numbered[-1].is_file() or len(numbered) == 1:
        numbered.append(folder / f"{name}.{len(numbered)}.png")
    return [path for path in numbered if path.is_file()]


def _stale(data: TableData, results: Path) -> str:
    """Return why the committed table is outdated, '' if it agrees with its records."""
    path = results / "tables" / f"{data.name}.md"
    if not path.is_file():
        return f"not rendered yet: {command_for('table', data.name)}"
    if path.read_text() != render.markdown(data):
        return f"{path} is older than its records: make figures"
    return ""
