"""Table specs: `conf/table/<T>.yaml` as data classes. What a table says is checked before anything is composed."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from layerfit.config import CONF
from layerfit.errors import UserError
from layerfit.report.reading import Grid, count, grid, read_yaml, section, seeds, strings


@dataclass(frozen=True)
class Row:
    """One line of a table: its label and what it changes over the table's `base`."""

    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """One score.

    key: `task/metric` (`record.Score.key`). percent: a share in [0, 1], printed times 100.
    min_items: fewest items that a score may rest on. chance: share right by guessing, drawn as a line.
    """

    label: str
    key: str
    percent: bool = True
    min_items: int | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Published:
    """A number of a paper, as printed there (in percent where the column is). spread: as printed, often not given."""

    value: float
    spread: float | None
    source: str


@dataclass(frozen=True)
class Tuning:
    """How a table's rows are tuned: the same number of trials each, on other seeds and other items.

    base: overrides while tuning. objective: score key -> weight; the weighted mean is what a trial is chosen by.
    """

    base: tuple[str, ...]
    seeds: tuple[int, ...]
    objective: dict[str, float]
    trials: int
    grid: Grid


@dataclass(frozen=True)
class Tuned:
    """`conf/tuned/<name>.yaml`: what tuning chose, and what it cost.

    chosen: row -> overrides. searched: row -> knob -> values tried. edges: row -> knobs whose best value was the last
    one tried, accepted all the same.
    """

    name: str
    trials: int
    seeds: tuple[int, ...]
    chosen: dict[str, tuple[str, ...]]
    searched: Grid
    edges: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class TableSpec:
    """A table: rows x seeds x columns."""

    name: str
    title: str
    note: str
    base: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]
    tuned: str | None
    results: str
    tuning: Tuning | None
    published: dict[str, dict[str, Published]]
    gates: dict[str, Any] | None


def known() -> list[str]:
    """Return the names of all tables."""
    return sorted(path.stem for path in (CONF / "table").glob("*.yaml"))


def load(name: str, conf: Path = CONF) -> TableSpec:
    """Read `conf/table/<name>.yaml`.

    Raises:
        UserError: if there is no such table, or naming the first thing that is wrong in the file.
    """
    path = conf / "table" / f"{name}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in (conf / "table").glob("*.yaml"))
        raise UserError(f"no table {name!r}; known tables: {', '.join(names) or 'none, add one to conf/table/'}")
    return parse(name, read_yaml(path), f"conf/table/{name}.yaml")


def load_tuned(spec: TableSpec, conf: Path = CONF) -> Tuned | None:
    """Read the tuned values that a table asks for, None if it asks for none.

    Raises:
        UserError: if the file is not there, is not one, or misses a row of the table.
    """
    if spec.tuned is None:
        return None
    path, where = conf / "tuned" / f"{spec.tuned}.yaml", f"conf/tuned/{spec.tuned}.yaml"
    if not path.is_file():
        raise UserError(f"table {spec.name} needs {where}; write it with: make tune T={spec.tuned}")
    raw = section(read_yaml(path), where, "", ("trials", "seeds", "chosen", "searched", "edges"), ("chosen",))
    chosen = section(raw["chosen"], where, "chosen")
    missing = [row.label for row in spec.rows if row.label not in chosen]
    if missing:
        raise UserError(f"{where}: chosen misses the rows {', '.join(missing)} of table {spec.name}; tune them as well")
    return Tuned(
        name=spec.tuned,
        trials=count(raw.get("trials"), where, "trials", low=0),
        seeds=seeds(raw.get("seeds"), where, "seeds"),
        chosen={row: strings(v, where, f"chosen.{row}") for row, v in chosen.items()},
        searched=grid(raw.get("searched") or {}, where, "searched"),
        edges={row: strings(v, where, f"edges.{row}") for row, v in (raw.get("edges") or {}).items()},
    )


def parse(name: str, data: object, where: str) -> TableSpec:
    """Check a table's YAML and return it as data. `where` names the file in messages."""
    allowed = ("title", "note", "base", "rows", "seeds", "columns", "tuned", "results", "tuning", "published", "gates")
    raw = section(data, where, "", allowed, ("title", "rows", "seeds", "columns"))
    rows = tuple(
        Row(label, strings(v, where, f"rows.{label}")) for label, v in section(raw["rows"], where, "rows").items()
    )
    columns = tuple(_column(label, v, where) for label, v in section(raw["columns"], where, "columns").items())
    base = strings(raw.get("base") or [], where, "base")
    for key, overrides in (("base", base), *((f"rows.{row.label}", row.overrides) for row in rows)):
        if any(text.startswith(("seed=", "paths.")) for text in overrides):
            raise UserError(
                f"{where}: {key} sets seed or paths; a table's seeds are in `seeds`, its folder in `results`"
            )
    keys = [column.key for column in columns]
    if len(set(keys)) < len(keys):
        raise UserError(f"{where}: columns show one score twice: {', '.join(keys)}; keep one of them")
    spec = TableSpec(
        name=name,
        title=str(raw["title"]),
        note=" ".join(str(raw.get("note") or "").split()),
        base=base,
        rows=rows,
        seeds=seeds(raw["seeds"], where, "seeds"),
        columns=columns,
        tuned=raw.get("tuned"),
        results=str(raw.get("results") or "results"),
        tuning=_tuning(raw["tuning"], where) if raw.get("tuning") else None,
        published=_published(raw.get("published") or {}, rows, columns, where),
        gates=section(raw["gates"], where, "gates") if raw.get("gates") else None,
    )
    _check_tuning(spec, where)
    return spec


def _column(label: str, value: object, where: str) -> Column:
    if isinstance(value, str):
        value = {"score": value}
    raw = section(value, where, f"columns.{label}", ("score", "percent", "min_items", "chance"), ("score",))
    key = str(raw["score"])
    if not all(key.partition("/")):
        raise UserError(f"{where}: columns.{label}={key!r} is no score; write task/metric, for example nano_facts/acc")
    low = raw.get("min_items")
    minimum = None if low is None else count(low, where, f"columns.{label}.min_items")
    return Column(label, key, bool(raw.get("percent", True)), minimum, raw.get("chance"))


def _tuning(data: object, where: str) -> Tuning:
    needed = ("seeds", "objective", "trials", "grid")
    raw = section(data, where, "tuning", ("base", *needed), needed)
    objective = {str(k): v for k, v in section(raw["objective"], where, "tuning.objective").items()}
    for key, weight in objective.items():
        if not isinstance(weight, int | float) or not weight > 0:
            raise UserError(f"{where}: tuning.objective.{key}={weight!r} is no weight; give a number above 0")
    return Tuning(
        base=strings(raw.get("base") or [], where, "tuning.base"),
        seeds=seeds(raw["seeds"], where, "tuning.seeds"),
        objective={key: float(weight) for key, weight in objective.items()},
        trials=count(raw["trials"], where, "tuning.trials"),
        grid=grid(raw["grid"], where, "tuning.grid"),
    )


def _check_tuning(spec: TableSpec, where: str) -> None:
    """Refuse an unequal budget, and tuning on what the table reports."""
    if spec.tuning is None:
        return
    tuning, labels = spec.tuning, [row.label for row in spec.rows]
    both = sorted(set(tuning.seeds) & set(spec.seeds))
    if both:
        raise UserError(f"{where}: tuning.seeds={both} are seeds of the table too; tune on others, for example 100")
    seen = sorted(set(tuning.objective) & {column.key for column in spec.columns})
    if seen:
        raise UserError(
            f"{where}: tuning.objective uses {', '.join(seen)}, which the table reports; tune on other items"
        )
    for row, knobs in tuning.grid.items():
        if row not in labels:
            raise UserError(f"{where}: tuning.grid names {row!r}, not a row; rows: {', '.join(labels)}")
        points = prod(len(values) for values in knobs.values())
        if points != tuning.trials:
            raise UserError(
                f"{where}: tuning.grid.{row} has {points} points and tuning.trials={tuning.trials}; "
                f"every row gets the same number of trials"
            )


def _published(
    data: object, rows: tuple[Row, ...], columns: tuple[Column, ...], where: str
) -> dict[str, dict[str, Published]]:
    out: dict[str, dict[str, Published]] = {}
    row_labels, column_labels = tuple(r.label for r in rows), tuple(c.label for c in columns)
    for row, cells in section(data, where, "published", row_labels, empty=True).items():
        out[row] = {}
        for column, cell in section(cells, where, f"published.{row}", column_labels).items():
            key = f"published.{row}.{column}"
            raw = section(cell, where, key, ("value", "spread", "source"), ("value", "source"))
            spread = raw.get("spread")
            try:
                value, spread = float(raw["value"]), None if spread is None else float(spread)
            except (TypeError, ValueError) as error:
                raise UserError(f"{where}: {key} holds no numbers; write value: 43.1, spread: 0.4 or none") from error
            out[row][column] = Published(value, spread, str(raw["source"]))
    return out
