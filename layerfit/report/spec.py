"""The spec of a table as data classes, read from `conf/table/<T>.yaml` and `conf/tuned/<T>.yaml`.

It is checked before anything is composed. `<T>.nano` is the embedded profile of table T, defined by its section `nano`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from layerfit.config import conf_folders, find
from layerfit.errors import UserError, did_you_mean
from layerfit.installation import command_for
from layerfit.report.reading import SearchGrid, count, embedded, grid, read_yaml, section, seeds, strings
from layerfit.report.units import UNITS

PROFILE = ".nano"
"""Suffix of the name of a table's embedded profile."""
KEYS = (
    *("title", "note", "slide", "base", "rows", "seeds", "vary", "columns", "costs", "views", "tuned", "tuned_as"),
    *("results", "tuning", "published", "footnotes", "gates", "nano"),
)
REQUIRED = ("title", "rows", "seeds")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Row:
    """One line of a table: its label and its overrides on top of the table's `base`.

    label: unique, with its group in front (`TinyLlama LoRA`). group: the block of lines it belongs to, '' for none;
    rows are compared inside a group. hole: why it has no runs (a row that is published only), None if it has.
    """

    label: str
    overrides: tuple[str, ...]
    group: str = ""
    hole: str | None = None

    @property
    def short(self) -> str:
        """Return the label inside its group."""
        return self.label.removeprefix(f"{self.group} ") if self.group else self.label


@dataclass(frozen=True)
class Column:
    """One number of every row.

    key: `task/metric` (`record.Score.key`), or another of `values.py`; None in a column without numbers. unit:
    `percent` (a share, printed times 100) or one of `units.UNITS`. min_items: minimum number of items of a score.
    chance: accuracy of guessing, drawn as a line. seed: only this seed's value. hole: why no row has a number.
    """

    label: str
    key: str | None
    unit: str = "percent"
    min_items: int | None = None
    chance: float | None = None
    seed: int | None = None
    hole: str | None = None


@dataclass(frozen=True)
class Published:
    """A number of a paper, as printed there (in percent where the column is). spread: the number after its ±."""

    text: str
    value: float
    spread: float | None
    bold: bool
    source: str


@dataclass(frozen=True)
class Tuning:
    """Tuning of a table's rows: the same number of trials each, on other seeds and other items.

    base: overrides while tuning. objective: score key -> weight; the trial with the best weighted mean is chosen.
    """

    base: tuple[str, ...]
    seeds: tuple[int, ...]
    objective: dict[str, float]
    trials: int
    grid: SearchGrid


@dataclass(frozen=True)
class Tuned:
    """`conf/tuned/<name>.yaml`: the chosen values, and the budget of tuning.

    chosen: row -> overrides. searched: row -> knob -> values tried. edges: row -> knobs whose best value was at an end
    of its range, accepted nevertheless.
    """

    name: str
    trials: int
    seeds: tuple[int, ...]
    chosen: dict[str, tuple[str, ...]]
    searched: SearchGrid
    edges: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class TableSpec:
    """A table: rows x seeds x columns.

    vary: the key that a seed sets. tuned: names of tuned files; tuned_as: row, by its label or that inside its group
    -> its entry there, if named differently. views: matrices computed from findings (`report/views`). costs: whether
    to append columns of memory, time and tokens. stands_for: in a profile, (replaced, replacement).
    """

    name: str
    title: str
    note: str
    base: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]
    tuned: tuple[str, ...]
    results: str
    tuning: Tuning | None
    published: dict[str, dict[str, Published]]
    gates: dict[str, Any] | None
    vary: str = "seed"
    tuned_as: dict[str, str] = field(default_factory=dict)
    footnotes: tuple[str, ...] = ()
    views: tuple[dict[str, Any], ...] = ()
    costs: bool = True
    slide: str | None = None
    stands_for: tuple[tuple[str, str], ...] = ()

    @property
    def file(self) -> str:
        """Return the spec's file, for messages."""
        return f"conf/table/{self.name.removesuffix(PROFILE)}.yaml"

    def borrowed(self, row: Row) -> str | None:
        """Return the other entry of the tuned file that a row takes its values from, None if it has none."""
        return self.tuned_as.get(row.label, self.tuned_as.get(row.short))

    def tuned_entry(self, row: Row, chosen: Mapping[str, object]) -> str | None:
        """Return a row's entry of the tuned file: from `tuned_as`, else its label, else its label inside its group."""
        entry = self.borrowed(row)
        return next((name for name in ([entry] if entry else [row.label, row.short]) if name in chosen), None)


def known() -> list[str]:
    """Return the names of all tables and of their profiles."""
    names: list[str] = []
    paths = {path.stem: path for folder in reversed(conf_folders()) for path in (folder / "table").glob("*.yaml")}
    for _, path in sorted(paths.items()):
        # Search for the section as a line start: parsing every file as YAML would take a second.
        has_profile = any(line.startswith("nano:") for line in path.read_text(encoding="utf-8").splitlines())
        names += [path.stem, path.stem + PROFILE] if has_profile else [path.stem]
    return names


def load(name: str, conf: Path | None = None) -> TableSpec:
    """Read `table/<name>.yaml` of a folder, or its profile where the name ends in `.nano`.

    conf: None = layerfit's folder and those that the user added (`config.conf_folders`).

    Raises:
        UserError: if there is no such table, or naming the first mistake in the file.
    """
    stem = name.removesuffix(PROFILE)
    path = find("table", stem, conf)
    if path is None:
        names = known()
        listed = ", ".join(names) or "none, add one to conf/table/"
        raise UserError(f"no table {name!r}{did_you_mean(name, names)}; known tables: {listed}")
    return parse(name, read_yaml(path), f"conf/table/{stem}.yaml")


def load_tuned(spec: TableSpec, conf: Path | None = None) -> Tuned | None:
    """Read the tuned values that a table uses, joined if they are in several files, None if it uses none.

    Raises:
        UserError: if a file is missing or invalid, if two differ in budget, or if a row of the table has no entry.
    """
    if not spec.tuned:
        return None
    found = [_tuned_file(spec, name, conf) for name in spec.tuned]
    budgets = {(one.trials, one.seeds) for one in found}
    if len(budgets) > 1:
        raise UserError(f"{spec.file}: {', '.join(spec.tuned)} differ in trials or seeds; tune them alike")
    out = found[0]
    for one in found[1:]:
        out = Tuned(
            name=f"{out.name} and {one.name}",
            trials=out.trials,
            seeds=out.seeds,
            chosen=out.chosen | one.chosen,
            searched=out.searched | one.searched,
            edges=out.edges | one.edges,
        )
    missing = [row.label for row in spec.rows if row.hole is None and spec.tuned_entry(row, out.chosen) is None]
    if missing:
        where = f"conf/tuned/{spec.tuned[-1]}.yaml"
        raise UserError(f"{where}: chosen misses the rows {', '.join(missing)} of table {spec.name}; tune them as well")
    return out


def _tuned_file(spec: TableSpec, name: str, conf: Path | None) -> Tuned:
    path, where = find("tuned", name, conf, own_first=True), f"conf/tuned/{name}.yaml"
    if path is None:
        raise UserError(f"table {spec.name} needs {where}; write it with: {command_for('tune', name)}")
    raw = section(read_yaml(path), where, "", ("trials", "seeds", "chosen", "searched", "edges"), ("chosen",))
    return Tuned(
        name=name,
        trials=count(raw.get("trials"), where, "trials", low=0),
        seeds=seeds(raw.get("seeds"), where, "seeds"),
        chosen={r: strings(v, where, f"chosen.{r}") for r, v in section(raw["chosen"], where, "chosen").items()},
        searched=grid(raw.get("searched") or {}, where, "searched"),
        edges={row: strings(v, where, f"edges.{row}") for row, v in (raw.get("edges") or {}).items()},
    )


def parse(name: str, data: object, where: str) -> TableSpec:
    """Check a table's YAML and return its spec, or its profile's if the name ends in `.nano`. where: file for messages.

    Raises:
        UserError: naming the first mistake, with the fix.
    """
    raw = section(data, where, "", KEYS, REQUIRED)
    stands_for: tuple[tuple[str, str], ...] = ()
    if name.endswith(PROFILE):
        raw, stands_for = embedded(raw, where)
    if not raw.get("columns") and not raw.get("views"):
        raise UserError(f"{where}: the file lacks columns, or views that compute something from its runs")
    rows = tuple(_rows(raw["rows"], where))
    heads = section(raw.get("columns") or {}, where, "columns", empty=True)
    columns = tuple(_column(label, value, where) for label, value in heads.items())
    spec = TableSpec(
        name=name,
        title=str(raw["title"]),
        note=" ".join(str(raw.get("note") or "").split()),
        base=strings(raw.get("base") or [], where, "base"),
        rows=rows,
        seeds=seeds(raw["seeds"], where, "seeds"),
        columns=columns,
        tuned=_names(raw.get("tuned"), where),
        results=str(raw.get("results") or "results"),
        tuning=_tuning(raw["tuning"], where) if raw.get("tuning") else None,
        published=_published(raw["published"], rows, columns, where) if raw.get("published") else {},
        gates=section(raw["gates"], where, "gates") if raw.get("gates") else None,
        vary=str(raw.get("vary") or "seed"),
        tuned_as={str(k): str(v) for k, v in (raw.get("tuned_as") or {}).items()},
        footnotes=strings(raw.get("footnotes") or [], where, "footnotes"),
        views=tuple(section(v, where, "views", required=("kind",)) for v in raw.get("views") or []),
        costs=bool(raw.get("costs", True)),
        slide=raw.get("slide"),
        stands_for=stands_for,
    )
    _check(spec, where)
    _check_tuning(spec, where)
    return spec


def _names(value: object, where: str) -> tuple[str, ...]:
    """Return the tuned files of a table: none, one, or a list."""
    return strings([] if value is None else [value] if isinstance(value, str) else value, where, "tuned")


def _rows(data: object, where: str) -> Iterator[Row]:
    """Yield the rows in printing order; a mapping with `rows` is a group of them."""
    for label, value in section(data, where, "rows").items():
        if not isinstance(value, Mapping) or "hole" in value:
            yield _row(label, value, where, "", ())
            continue
        raw = section(value, where, f"rows.{label}", ("base", "rows"), ("rows",))
        base = strings(raw.get("base") or [], where, f"rows.{label}.base")
        for short, inner in section(raw["rows"], where, f"rows.{label}.rows").items():
            yield _row(short, inner, where, label, base)


def _row(short: str, value: object, where: str, group: str, base: tuple[str, ...]) -> Row:
    label = f"{group} {short}" if group else short
    if value is None:
        return Row(label, (), group, "published only")
    if isinstance(value, Mapping):
        return Row(label, (), group, str(section(value, where, f"rows.{label}", ("hole",), ("hole",))["hole"]))
    return Row(label, (*base, *strings(value, where, f"rows.{label}")), group)


def _column(label: str, value: object, where: str) -> Column:
    if isinstance(value, str):
        value = {"score": value}
    raw = section(value, where, f"columns.{label}", ("score", "unit", "min_items", "chance", "seed", "hole"))
    if (raw.get("score") is None) == (raw.get("hole") is None):
        raise UserError(
            f"{where}: columns.{label} needs a score, task/metric, or a hole with the reason why there is none"
        )
    key = None if raw.get("score") is None else str(raw["score"])
    if key is not None and not all(key.partition("/")):
        raise UserError(
            f"{where}: columns.{label}={key!r} is not a score; write task/metric, for example nano_facts/acc"
        )
    unit = str(raw.get("unit") or "percent")
    if unit not in UNITS:
        raise UserError(f"{where}: columns.{label}.unit={unit!r} is unknown; choose one of: {', '.join(UNITS)}")
    low, seed = raw.get("min_items"), raw.get("seed")
    minimum = None if low is None else count(low, where, f"columns.{label}.min_items")
    hole = None if raw.get("hole") is None else str(raw["hole"])
    return Column(label, key, unit, minimum, raw.get("chance"), seed, hole)


def _check(spec: TableSpec, where: str) -> None:
    """Check the spec as a whole: seeds set twice, columns shown twice, names that no row has."""
    for key, overrides in (("base", spec.base), *((f"rows.{row.label}", row.overrides) for row in spec.rows)):
        if any(text.startswith(("seed=", f"{spec.vary}=", "paths.")) for text in overrides):
            raise UserError(
                f"{where}: {key} sets seed or paths; a table's seeds are in `seeds`, its folder in `results`"
            )
    labels = [row.label for row in spec.rows]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"{where}: two rows are named {twice[0]!r}; rename one")
    keys = [(column.key, column.seed) for column in spec.columns if column.key is not None]
    if len(set(keys)) < len(keys):
        names = ", ".join(str(key) for key, _ in keys)
        raise UserError(f"{where}: columns show a score twice: {names}; keep one of them")
    for column in spec.columns:
        if column.seed is not None and column.seed not in spec.seeds:
            raise UserError(f"{where}: columns.{column.label}.seed={column.seed} is not one of seeds={spec.seeds}")
    if unknown := [row for row in spec.tuned_as if row not in {*labels, *(row.short for row in spec.rows)}]:
        raise UserError(f"{where}: tuned_as names {unknown[0]!r}, not a row; rows: {', '.join(labels)}")


def _tuning(data: object, where: str) -> Tuning:
    needed = ("seeds", "objective", "trials", "grid")
    raw = section(data, where, "tuning", ("base", *needed), needed)
    objective = {str(k): v for k, v in section(raw["objective"], where, "tuning.objective").items()}
    for key, weight in objective.items():
        if not isinstance(weight, int | float) or not weight > 0:
            raise UserError(f"{where}: tuning.objective.{key}={weight!r} is not a weight; give a number above 0")
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
        raise UserError(f"{where}: tuning.seeds={both} are also seeds of the table; tune on others, for example 100")
    seen = sorted(set(tuning.objective) & {column.key for column in spec.columns if column.key})
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
    """Return published numbers by row and column: `25.81 ± 0.07`, `**2.61 ± 0.17**` where the source is bold."""
    raw = section(data, where, "published", ("source", "columns", "rows"), ("source", "columns", "rows"))
    heads, labels = strings(raw["columns"], where, "published.columns"), tuple(row.label for row in rows)
    if unknown := [head for head in heads if head not in {column.label for column in columns}]:
        raise UserError(f"{where}: published.columns names {unknown[0]!r}; columns: {_labels(columns)}")
    out: dict[str, dict[str, Published]] = {}
    for row, cells in section(raw["rows"], where, "published.rows", labels).items():
        if not isinstance(cells, list) or len(cells) != len(heads):
            raise UserError(f"{where}: published.rows.{row} is not a list of {len(heads)} numbers: {', '.join(heads)}")
        found = ((head, _number(cell, f"{where}: published.rows.{row}, {head}", str(raw["source"])))
                 for head, cell in zip(heads, cells, strict=True))  # fmt: skip
        out[row] = {head: number for head, number in found if number is not None}
    return out


def _labels(columns: tuple[Column, ...]) -> str:
    return ", ".join(column.label for column in columns)


def _number(cell: Any, where: str, source: str) -> Published | None:
    if cell is None:
        return None
    text = str(cell)
    bold = text.startswith("**") and text.endswith("**")
    plain = text.strip("*") if bold else text
    match = _NUMBER.fullmatch(plain)
    if match is None:
        raise UserError(
            f"{where}: {text!r} is not a number; write 43.1, '43.10 ± 0.40' or '**43.1**', null if there is none"
        )
    value, spread = match.groups()
    return Published(plain, float(value), None if spread is None else float(spread), bold, source)
