"""Records as a tidy pandas DataFrame: one line per run and score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from layerfit.errors import UserError
from layerfit.files.paths import expand
from layerfit.files.shown import whole_characters
from layerfit.records.record import Record, Score, read_all
from layerfit.report import checks
from layerfit.report.cells import Cell
from layerfit.report.checks import of_tree
from layerfit.report.escape import in_csv
from layerfit.report.values import peak_bytes

if TYPE_CHECKING:
    from pandas import DataFrame

    from layerfit.report.build import LoadedTable

MISSING = "missing"
"""Status of a table's run that has no record."""
MEASURED: dict[str, Callable[[Record], float | None]] = {
    "train_seconds": lambda r: r.measured.train_seconds,
    "eval_seconds": lambda r: r.measured.eval_seconds,
    "tokens_per_s": lambda r: r.measured.tokens_per_s,
    "peak_memory_bytes": peak_bytes,
    "trainable_parameters": lambda r: r.result.trainable_parameters,
    "total_parameters": lambda r: r.result.total_parameters,
    "tokens": lambda r: r.result.tokens,
}
"""Column -> a number of the run, the same in each of its lines. tokens: seen in training, without padding."""
GROUPS = ("method", "model", "dataset", "eval", "engine")
OWN = ("run_id", "table", "row", "group", "seed", "method_seed", "refused")
OF_SCORE = ("task", "metric", "value", "stderr", "num_items", "num_fewshot")
COLUMNS = (
    *("run_id", "table", "row", "group", *GROUPS, "seed", "method_seed", "status", *OF_SCORE, *MEASURED, "refused"),
)
FLOATS = ("value", "stderr", "train_seconds", "eval_seconds", "tokens_per_s")
TEXTS = ("run_id", "table", "row", "group", *GROUPS, "status", "task", "metric", "refused")


@dataclass(frozen=True)
class RunLine:
    """A run's names. refused: why its table refuses the record, None if it does not.

    choices: by configuration group: method, model, dataset, eval, engine.
    """

    run_id: str
    table: str | None
    row: str
    group: str | None
    seed: int | None
    method_seed: int | None
    choices: dict[str, str | None]
    record: Record | None
    refused: str | None = None


def seed_of(record: Record) -> int | None:
    """Return a run's seed, None where the method trains nothing: one run for all seeds."""
    from layerfit.methods import METHODS

    method = METHODS.get(record.method)
    return None if method is not None and not method.trains else record.result.config.get("seed")


def made_for(record: Record) -> str | None:
    """Return the table (`T`, or `T tuning`) whose command made a run; None for a single run or a sweep.

    Other tables may use the same run: only composing them shows that.
    """
    words = [word for word in record.measured.manifest.get("command") or [] if not word.startswith("-")]
    for word, after in pairwise(words):
        if word in ("table", "tune"):
            return after if word == "table" else f"{after} tuning"
    return None


def of_record(run_id: str, record: Record) -> RunLine:
    """Return a record's line without a table, named by its label."""
    config = record.result.config
    choices = {group: (config.get(group) or {}).get("name") for group in GROUPS} | {"method": record.method}
    return RunLine(
        run_id,
        made_for(record),
        record.label or record.method,
        None,
        seed_of(record),
        (config.get("method") or {}).get("seed"),
        choices,
        record,
        "; ".join(of_tree(record)) or None,
    )


def frame(table: str | None = None, *, results: str = "results") -> DataFrame:
    """Return the runs of a table, or all that are recorded, as a tidy DataFrame.

    One line per run and score; a run without scores (a ranking, a failed or missing run) has one line with a null task.
    Units are in the columns' names; `value` and `stderr` are in the task's own unit, a share in [0, 1]. `seed` is null
    where a method trains nothing; `method_seed` seeds the method's draws. `refused` is why the table refuses the
    record. With a table, `row` and `group` are the table's; without one, `row` is the record's label and `table` the
    table that the run was made for (`made_for`).

    Args:
        table: a file of conf/table without `.yaml`, or `T.nano`; None = every record.
        results: folder of all records; a table's spec names its own.

    Raises:
        UserError: if there is no such table, or a file is not a record.
    """
    return tidy(of_table(table) if table is not None else [of_record(*item) for item in read_all(results).items()])


def of_table(name: str) -> list[RunLine]:
    """Return the lines of a table, in printing order; opens `conf/` where it is not open yet.

    Raises:
        UserError: if the table or a record is invalid.
    """
    from hydra.core.global_hydra import GlobalHydra

    from layerfit.config import composer
    from layerfit.report import build

    if GlobalHydra.instance().is_initialized():
        return lines_of(build.load(name))
    with composer():
        return lines_of(build.load(name))


def lines_of(loaded: LoadedTable) -> list[RunLine]:
    """Return the lines of a loaded table (`build.LoadedTable`)."""
    groups = {row.label: row.group or None for row in loaded.spec.rows}
    refused = {one.run_id: one.reason for one in loaded.refused()}

    def line(cell: Cell) -> RunLine:
        run, record = cell.run, loaded.store.records.get(cell.run_id)
        choices = {group: getattr(run, group).name for group in GROUPS if group != "method"}
        choices["method"] = run.method_name()
        wrong = [*checks.of_settings(run), *filter(None, [refused.get(cell.run_id)])] if record else []
        return RunLine(
            cell.run_id,
            loaded.spec.name,
            cell.row,
            groups[cell.row],
            cell.seed,
            run.method.seed,
            choices,
            record,
            "; ".join(wrong) or None,
        )

    return [line(cell) for cell in loaded.cells]


def _cells(line: RunLine) -> list[dict[str, Any]]:
    own: dict[str, Any] = {name: getattr(line, name) for name in OWN} | line.choices
    own = {name: whole_characters(value) if isinstance(value, str) else value for name, value in own.items()}
    record = line.record
    if record is None:
        return [{**own, "status": MISSING}]
    own |= {"status": record.result.status} | {name: of(record) for name, of in MEASURED.items()}
    scores: list[Score | None] = list(record.result.scores) or [None]
    return [{**own, **{name: getattr(score, name, None) for name in OF_SCORE}} for score in scores]


def tidy(lines: list[RunLine]) -> DataFrame:
    """Return lines as a DataFrame; columns keep their types even if all values are null."""
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise UserError("data frames need pandas: pip install pandas") from error
    made = DataFrame([cell for line in lines for cell in _cells(line)], columns=list(COLUMNS))
    kinds = {name: "string" if name in TEXTS else "Float64" if name in FLOATS else "Int64" for name in COLUMNS}
    return made.astype(kinds)


def check_csv(path: str) -> None:
    """Raise UserError unless a file can be written at a path, `-` for standard output."""
    if path != "-" and ((file := expand("--csv", path)).is_dir() or not file.absolute().parent.is_dir()):
        raise UserError(f"--csv {path} is a folder, or in one that does not exist; give a file, or -")


def write_csv(lines: list[RunLine], path: str) -> None:
    """Write lines as CSV, to standard output where the path is `-`.

    Raises:
        UserError: if it cannot be written.
    """
    import sys

    try:
        shown = tidy(lines)
        for name in TEXTS:
            shown[name] = shown[name].map(in_csv, na_action="ignore")
        shown.to_csv(sys.stdout if path == "-" else expand("--csv", path), index=False)
    except OSError as error:
        raise UserError(
            f"--csv {path}: {error.strerror or error}; give a file in a folder that exists, or -"
        ) from error
