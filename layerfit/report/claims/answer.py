"""From claims to verdicts: loads each table once, asks its published numbers, its records, its embedded profile's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layerfit.errors import UserError
from layerfit.report import build, spec
from layerfit.report.cells import Store
from layerfit.report.claims import judge
from layerfit.report.claims.judge import Verdict
from layerfit.report.claims.kinds import KINDS
from layerfit.report.claims.read import Claim, Test
from layerfit.report.claims.sources import Printed, Records
from layerfit.report.table import TableData
from layerfit.report.views import VIEWS

REAL, NANO = "real", "nano"
PROFILES = (REAL, NANO)
CLAIMS = Path("results/claims.md")


@dataclass(frozen=True)
class Answer:
    """A claim's verdicts. ours: by profile, those that were asked for."""

    claim: Claim
    published: Verdict
    ours: dict[str, Verdict]


@dataclass(frozen=True)
class _Table:
    loaded: build.Loaded
    data: TableData


def answers(claims: list[Claim], profiles: tuple[str, ...] = PROFILES) -> list[Answer]:
    """Return the verdicts on all claims, inside `config.composer()`.

    Raises:
        UserError: if a claim names a table, row or column that is not there.
    """
    tables: dict[str, _Table | str] = {}

    def table(name: str) -> _Table | str:
        if name not in tables:
            tables[name] = _load(name)
        return tables[name]

    return [Answer(one, _published(one), {p: _ours(one, p, table) for p in profiles}) for one in claims]


def _load(name: str) -> _Table | str:
    """Return a table, or why its runs cannot be looked up: its tuned values or a model's file are not there yet."""
    spec.load(name)  # a mistake in the table itself is for the reader to mend
    try:
        loaded = build.load(name)
        return _Table(loaded, build.assemble(loaded))
    except UserError as error:
        return str(error)


def _published(claim: Claim) -> Verdict:
    if claim.test is None:
        return Verdict(judge.UNTESTABLE, claim.untestable)
    if claim.test.table not in spec.known():
        return Verdict(judge.NO_NUMBERS, f"no table {claim.test.table} in conf/table yet")
    read = spec.load(claim.test.table)
    source = Printed(read, [], Store({}, {}), VIEWS)
    return judge.judge_published(KINDS[claim.test.kind](source, claim.test.options), claim.test.quantifier)


def _ours(claim: Claim, profile: str, table: Callable[[str], _Table | str]) -> Verdict:
    test = claim.test if profile == REAL else claim.nano
    if claim.test is None:
        return Verdict(judge.UNTESTABLE, claim.untestable)
    if test is None:
        return Verdict(judge.NOT_ASKED, claim.not_nano)
    name = test.table + (spec.PROFILE if profile == NANO else "")
    if name not in spec.known():
        return Verdict(judge.NOT_RUN, f"no table {name} in conf/table yet")
    found = table(name)
    if isinstance(found, str):
        return Verdict(judge.NOT_RUN, found)
    return judged(test, found.loaded, found.data)


def judged(test: Test, loaded: build.Loaded, data: TableData) -> Verdict:
    """Return the verdict of a table's records. Those that the table refuses to print decide nothing here either."""
    # A name that is not there shows whether or not anything has run.
    found = KINDS[test.kind](Records(loaded.spec, loaded.cells, loaded.store, VIEWS), test.options)
    todo = [item for item in loaded.todo() if not item.reason.startswith("oom")]  # what does not fit is a result
    if todo:
        return Verdict(judge.NOT_RUN, f"{len(todo)} runs of {loaded.spec.name} to do")
    if data.problems:
        more = f", and {len(data.problems) - 1} more" if len(data.problems) > 1 else ""
        return Verdict(judge.REFUSED, f"table {loaded.spec.name} is refused: {data.problems[0]}{more}")
    verdict = judge.judge(found, test.quantifier)
    failed = [gate.name for gate in data.gates if gate.passed is not True]
    if failed and verdict.cases:
        why = f"a gate of the table did not pass ({', '.join(failed)}): it cannot rank methods; {verdict.detail}"
        return Verdict(judge.UNDECIDED, why, verdict.cases, verdict.sides, verdict.missing)
    return verdict
