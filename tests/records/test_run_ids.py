"""Ids of runs are pinned: a field or class that is renamed would lose every committed record without a word.

`python -m tests.records.test_run_ids` writes the file anew, after a change that is meant to give new ids, and when a
table is new: one that has no committed record yet needs no pin.
"""

import json
from pathlib import Path

import pytest

from layerfit.config import ROOT, composer, run_id
from layerfit.report import cells, spec, tune

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "run_ids.json"
EARLIER = "earlier"
"""Records that no table asks for any more: trials of a grid that was extended."""


def ids_of(made: list[cells.Cell]) -> list[str]:
    """The ids of some runs, and of the rankings that they require, sorted."""
    return sorted({each for cell in made for each in (cell.run_id, *map(run_id, cells.required(cell.run)))})


def pinned() -> dict[str, list[str]]:
    return json.loads(GOLDEN.read_text())


def trials_of(name: str) -> list[cells.Cell]:
    read = spec.load(name)
    return [cell for trial in tune.trials(read) for cell in trial.cells] if read.tuning is not None else []


def tuned() -> list[str]:
    return [name for name in spec.known() if spec.load(name).tuning is not None]


@pytest.mark.slow  # of a table that is rendered the ids are looked at with it (test_committed_tables)
@pytest.mark.parametrize("name", [name for name in spec.known() if name in pinned()])
def test_the_ids_of_a_table_are_those_that_were_pinned(name):
    with composer():
        assert ids_of(cells.cells(spec.load(name))) == pinned()[name]


@pytest.mark.parametrize("name", [name for name in tuned() if f"{name} tuning" in pinned()])
def test_the_ids_of_trials_are_those_that_were_pinned(name):
    with composer():
        assert ids_of(trials_of(name)) == pinned()[f"{name} tuning"]


def test_every_committed_record_is_pinned():
    committed = {path.stem for path in (ROOT / "results" / "runs").glob("*.json")}
    new = committed - {each for ids in pinned().values() for each in ids}
    assert not new, "python -m tests.records.test_run_ids pins them"


if __name__ == "__main__":
    with composer():
        found = {name: ids_of(cells.cells(spec.load(name))) for name in spec.known()}
        found |= {f"{name} tuning": ids_of(trials_of(name)) for name in tuned()}
    known = {each for ids in found.values() for each in ids}
    found[EARLIER] = sorted({path.stem for path in (ROOT / "results" / "runs").glob("*.json")} - known)
    GOLDEN.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
