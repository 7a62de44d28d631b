"""From claims to verdicts, on a table's published numbers, its records, and those of its embedded profile."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from layerfit.claims import judge
from layerfit.claims.judge import Verdict
from layerfit.claims.kinds import KINDS, columns_of
from layerfit.claims.read import Claim, Test
from layerfit.claims.sources import Printed, Records
from layerfit.errors import UserError
from layerfit.installation import command_for
from layerfit.report import build, spec
from layerfit.report.cells import Store
from layerfit.report.spec import TableSpec
from layerfit.report.table import TableData
from layerfit.report.values import OF_ACTIVATIONS, is_of_first_step
from layerfit.report.views import VIEWS

REAL, NANO = "real", "nano"
PROFILES = (REAL, NANO)
CLAIMS = Path("results/claims.md")
FIRST_STEP = (
    "activations were counted in the first step of a run alone, and those of a later step can be larger: memory is to "
    "be measured anew"
)
"""Why no verdict rests on memory of records of before schema 3."""


@dataclass(frozen=True)
class Answer:
    """A claim's verdicts. ours: by requested profile."""

    claim: Claim
    published: Verdict
    ours: dict[str, Verdict]


@dataclass(frozen=True)
class _Tables:
    """Cache: each table is read once. rendered: tables with a file in results/tables.

    Only rendered tables are composed, which takes 0.1 s per row.
    """

    rendered: Collection[str]
    specs: dict[str, TableSpec] = field(default_factory=dict)
    tables: dict[str, tuple[build.LoadedTable, TableData] | str] = field(default_factory=dict)

    def spec(self, name: str) -> TableSpec:
        """Return a table's spec."""
        if name not in self.specs:
            self.specs[name] = spec.load(name)
        return self.specs[name]

    def table(self, name: str) -> tuple[build.LoadedTable, TableData] | str:
        """Return a table with its records, or the reason why they cannot be found: a row lacks a file that it needs."""
        if name not in self.tables:
            try:
                loaded = build.load(name)
                self.tables[name] = loaded, build.assemble(loaded)
            except UserError as error:
                self.tables[name] = str(error)
        return self.tables[name]


def answers(claims: list[Claim], rendered: Collection[str], profiles: tuple[str, ...] = PROFILES) -> list[Answer]:
    """Return the verdicts on all claims, inside `config.composer()`. rendered: `build.committed`.

    Raises:
        UserError: if a claim names a row or column that does not exist.
    """
    tables = _Tables(rendered)
    return [Answer(one, _published(one, tables), {p: _ours(one, p, tables) for p in profiles}) for one in claims]


def _published(claim: Claim, tables: _Tables) -> Verdict:
    if claim.test is None:
        return Verdict(judge.UNTESTABLE, claim.untestable)
    # A view arranges its published numbers by the rows that run: it needs their cells, but no records.
    found = tables.table(claim.test.table) if "view" in claim.test.options else ""
    cells = [] if isinstance(found, str) else found[0].cells
    source = Printed(tables.spec(claim.test.table), cells, Store({}, {}), VIEWS)
    return judge.judge_published(KINDS[claim.test.kind](source, claim.test.options), claim.test.quantifier)


def _ours(claim: Claim, profile: str, tables: _Tables) -> Verdict:
    test = claim.test if profile == REAL else claim.nano
    if claim.test is None:
        return Verdict(judge.UNTESTABLE, claim.untestable)
    if test is None:
        return Verdict(judge.NOT_ASKED, claim.not_nano)
    if test.table not in tables.rendered:
        return Verdict(judge.NOT_RUN, command_for("table", test.table))
    found = tables.table(test.table)
    return Verdict(judge.NOT_RUN, found) if isinstance(found, str) else judged(test, *found)


def _rests_on_the_first_step(test: Test, loaded: build.LoadedTable) -> bool:
    """Return whether a test compares memory, and a record of its table has activations of the first step alone."""
    view, keys = test.options.get("view"), list(OF_ACTIVATIONS)
    if view is None:
        keys = [column.key or "" for column in columns_of(loaded.spec, test.options.get("columns"))]
    elif view != "memory":
        return False
    have = [loaded.store.records[cell.run_id] for cell in loaded.cells if cell.run_id in loaded.store.records]
    return any(is_of_first_step(record, key) for record in have for key in keys)


def judged(test: Test, loaded: build.LoadedTable, data: TableData) -> Verdict:
    """Return the verdict of a table's records. If the table is refused, so is the verdict."""
    # First, so that an unknown row or column is reported even before anything has run.
    found = KINDS[test.kind](Records(loaded.spec, loaded.cells, loaded.store, VIEWS), test.options)
    todo = [item for item in loaded.todo() if not item.reason.startswith("oom")]  # out of memory is a result
    if todo:
        return Verdict(judge.NOT_RUN, f"{len(todo)} runs of {loaded.spec.name} to do")
    if data.problems:
        more = f", and {len(data.problems) - 1} more" if len(data.problems) > 1 else ""
        return Verdict(judge.REFUSED, f"table {loaded.spec.name} is refused: {data.problems[0]}{more}")
    if _rests_on_the_first_step(test, loaded):
        return Verdict(judge.NOT_ANSWERED, FIRST_STEP)
    verdict = judge.judge(found, test.quantifier)
    failed = [gate.name for gate in data.gates if gate.passed is not True]
    if failed and verdict.cases:
        why = f"a gate of the table did not pass ({', '.join(failed)}): it cannot rank methods; {verdict.detail}"
        return Verdict(judge.UNDECIDED, why, verdict.cases, verdict.sides, verdict.missing)
    return verdict
