"""What the report is made of, read once: tables with their state, figures, records, claims."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from layerfit.errors import UserError
from layerfit.record import Record, read
from layerfit.report import build, render, spec
from layerfit.report.build import Loaded
from layerfit.report.cells import hole
from layerfit.report.table import TableData

RENDERED, DRAFT, NOT_RUN = "rendered", "draft", "not run"
STATES = (RENDERED, DRAFT, NOT_RUN)


@dataclass(frozen=True)
class Table:
    """A table and how far it is. detail: what is missing or out of date, empty if nothing is.

    loaded, data: None where the table cannot be composed yet; `detail` says why. figures: (file name, PNG).
    """

    name: str
    title: str
    state: str
    detail: str
    loaded: Loaded | None = None
    data: TableData | None = None
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

    Only what is committed counts: working files of other folders would make the page differ from machine to machine.

    Raises:
        UserError: if a table's file or a record is broken.
    """
    tables, elsewhere = [], []
    for name in spec.known():
        one = spec.load(name)
        if Path(one.results) == Path(results):
            tables.append(_table(name, one.title, Path(results)))
        else:
            elsewhere.append((name, one.results))
    claims = Path(results) / "claims.md"
    text = claims.read_text() if claims.is_file() else None
    return Report(results, tuple(tables), tuple(elsewhere), read_records(results), text)


def read_records(results: str | Path) -> dict[str, Record]:
    """Return every record of a folder by run id.

    Raises:
        UserError: naming the file that is no record.
    """
    out: dict[str, Record] = {}
    for path in sorted((Path(results) / "runs").glob("*.json")):
        try:
            record = read(results, path.stem)
        except ValueError as error:
            raise UserError(str(error)) from error
        if record is not None:
            out[path.stem] = record
    return out


def _table(name: str, title: str, results: Path) -> Table:
    """Return a table with its state. What keeps it from being run does not keep the page from being made."""
    try:
        loaded = build.load(name)
        data = build.assemble(loaded, draft=True)
    except UserError as error:
        return Table(name, title, NOT_RUN, str(error))
    runs = {cell.run_id for cell in loaded.cells}
    done = sum(hole(loaded.store, run) is None for run in runs)
    figures = tuple((path.name, path.read_bytes()) for path in figure_files(name, results))
    if not any(run in loaded.store.records for run in runs):
        return Table(name, title, NOT_RUN, f"0 of {len(runs)} runs", loaded, data)
    if data.problems:
        detail = f"{done} of {len(runs)} runs" if done < len(runs) else data.problems[0]
        return Table(name, title, DRAFT, detail, loaded, data)  # a figure from before would show other numbers
    return Table(name, title, RENDERED, _stale(data, results), loaded, data, figures)


def figure_files(name: str, results: Path) -> list[Path]:
    """Return a table's committed figures: `<name>.png`, then those of its matrices, `<name>.1.png`, `<name>.2.png`."""
    folder = results / "figures"
    numbered = [folder / f"{name}.png"]
    while numbered[-1].is_file() or len(numbered) == 1:
        numbered.append(folder / f"{name}.{len(numbered)}.png")
    return [path for path in numbered if path.is_file()]


def _stale(data: TableData, results: Path) -> str:
    """Return what is wrong with the committed table, empty if it is what its records give."""
    path = results / "tables" / f"{data.name}.md"
    if not path.is_file():
        return f"not rendered yet: make table T={data.name}"
    if path.read_text() != render.markdown(data):
        return f"{path} is older than its records: make figures"
    return ""
