"""What a table is made of, as data classes, and where it is read from: `conf/table/<T>.yaml` and `conf/tuned/<T>.yaml`.

`<T>.nano` is the embedded profile of table T: its section `nano` says what stands for what (`profile.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerfit.config import CONF
from layerfit.errors import UserError
from layerfit.report.reading import Grid, count, grid, read_yaml, section, seeds, strings

PROFILE = ".nano"
"""Ending of the name of a table's embedded profile."""


@dataclass(frozen=True)
class Row:
    """One line of a table: its label and what it changes over the table's `base`.

    label: unique, with its group in front (`TinyLlama LoRA`). group: the block of lines it belongs to, '' for none;
    rows are compared inside a group. hole: why nothing runs for it (a row that is published only), None if it runs.
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

    key: `task/metric` (`record.Score.key`), or another of `values.py`; None in a column that is a hole. unit: `percent`
    (a share, printed times 100) or one of `units.UNITS`. min_items: fewest items that a score may rest on. chance:
    share right by guessing, drawn as a line. seed: only this seed's value. hole: why no row has a number.
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
    """A number of a paper, as printed there (in percent where the column is). spread: what follows its ±."""

    text: str
    value: float
    spread: float | None
    bold: bool
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
    """A table: rows x seeds x columns.

    vary: the key that a seed sets. tuned: names of tuned files; tuned_as: row, by its label or that inside its group
    -> its entry there, where that has another name. views: what is computed from findings (`report/views`). costs:
    whether columns of memory, time and tokens follow. stands_for: in a profile, what was replaced and by what.
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
        """Return the file that says it, for messages."""
        return f"conf/table/{self.name.removesuffix(PROFILE)}.yaml"

    def borrowed(self, row: Row) -> str | None:
        """Return which other entry of the tuned file a row takes its values from, None if it says nothing."""
        return self.tuned_as.get(row.label, self.tuned_as.get(row.short))

    def tuned_entry(self, row: Row, chosen: Mapping[str, object]) -> str | None:
        """Return a row's entry of the tuned file: what `tuned_as` says, its label, its label inside its group."""
        said = self.borrowed(row)
        return next((name for name in ([said] if said else [row.label, row.short]) if name in chosen), None)


def known(conf: Path | None = None) -> list[str]:
    """Return the names of all tables and of their profiles."""
    names = []
    for path in sorted(((conf or CONF) / "table").glob("*.yaml")):
        # A section begins a line: reading every file as YAML would take a second.
        embedded = any(line.startswith("nano:") for line in path.read_text(encoding="utf-8").splitlines())
        names += [path.stem, path.stem + PROFILE] if embedded else [path.stem]
    return names


def load(name: str, conf: Path = CONF) -> TableSpec:
    """Read `conf/table/<name>.yaml`, or its profile where the name ends in `.nano`.

    Raises:
        UserError: if there is no such table, or naming the first thing that is wrong in the file.
    """
    from layerfit.report.parse import parse

    stem = name.removesuffix(PROFILE)
    path = conf / "table" / f"{stem}.yaml"
    if not path.is_file():
        names = known(conf)
        raise UserError(f"no table {name!r}; known tables: {', '.join(names) or 'none, add one to conf/table/'}")
    return parse(name, read_yaml(path), f"conf/table/{stem}.yaml")


def load_tuned(spec: TableSpec, conf: Path = CONF) -> Tuned | None:
    """Read the tuned values that a table asks for, joined if they are in several files, None if it asks for none.

    Raises:
        UserError: if a file is not there or is not one, if two differ in budget, or if a row of the table has no entry.
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


def _tuned_file(spec: TableSpec, name: str, conf: Path) -> Tuned:
    path, where = conf / "tuned" / f"{name}.yaml", f"conf/tuned/{name}.yaml"
    if not path.is_file():
        raise UserError(f"table {spec.name} needs {where}; write it with: make tune T={name}")
    raw = section(read_yaml(path), where, "", ("trials", "seeds", "chosen", "searched", "edges"), ("chosen",))
    return Tuned(
        name=name,
        trials=count(raw.get("trials"), where, "trials", low=0),
        seeds=seeds(raw.get("seeds"), where, "seeds"),
        chosen={r: strings(v, where, f"chosen.{r}") for r, v in section(raw["chosen"], where, "chosen").items()},
        searched=grid(raw.get("searched") or {}, where, "searched"),
        edges={row: strings(v, where, f"edges.{row}") for row, v in (raw.get("edges") or {}).items()},
    )
