"""A table of many cells: each record is read once, each row composed once, each id computed once.

Of 50 rows by 100 seeds (5,100 records, `tests.helpers.many_records`) `todo` takes 9 CPU seconds; composing every cell
and reading and hashing at every question took 37.
"""

from collections import Counter

import pytest

from layerfit.config import composer, identity
from layerfit.records import record
from layerfit.report import __main__ as report
from layerfit.report import build, cells, checks
from tests.helpers.many_records import make

ROWS, SEEDS = 6, 4
RECORDS = ROWS * SEEDS + SEEDS
"""Half of the rows share a ranking for each seed."""


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Calls by name while a command works on a table of many cells."""
    monkeypatch.setattr("layerfit.config.folders.CONF", tmp_path / "conf")
    assert make(tmp_path, ROWS, SEEDS) == RECORDS
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "dirt", lambda: None)
    calls = {"files": Counter(), "ids": Counter(), "composed": Counter()}

    def counting(module, name, kind, what):
        real = getattr(module, name)

        def wrapped(*given, **named):
            calls[kind][what(*given)] += 1
            return real(*given, **named)

        monkeypatch.setattr(module, name, wrapped)

    counting(record, "_bytes", "files", lambda path: path.name)
    counting(cells, "run_id", "ids", lambda run: f"{run.method_name()} {run.seed} {run.method}")
    counting(cells, "typed", "composed", lambda config: str(config.method))
    return calls


@pytest.mark.parametrize("command", [["todo", "many"], ["render", "many", "--no-figures"]])
def test_nothing_is_read_composed_or_hashed_twice(counted, command):
    assert report.main(command) == 0
    assert len(counted["files"]) == 2 * RECORDS  # with the items
    assert set(counted["files"].values()) == {1}
    assert sum(counted["composed"].values()) == ROWS
    assert sum(counted["ids"].values()) == ROWS * SEEDS + (ROWS // 2) * SEEDS  # of a cell, and of its ranking


def test_the_short_way_gives_the_same_runs(tmp_path, monkeypatch):
    """Seeds that follow the run's, pinned ones, a method's own, and values that are interpolated from a seed."""
    words = [(), ("method.seed=7",), ("dataset.seed=3",), ("optim.weight_decay=${seed}",), ("method=ila",)]
    with composer():
        for vary in ("seed", "method.seed"):
            for overrides in words:
                short = cells.expand(overrides, (0, 1, 5), "results", vary)
                with monkeypatch.context() as patched:
                    patched.setattr(cells, "_follows_seed", lambda _: True)
                    assert cells.expand(overrides, (0, 1, 5), "results", vary) == short
                assert len({identity.run_id(run) for _, run in short}) == len(short)
        decays = [run.optim.weight_decay for _, run in cells.expand(words[3], (0, 1, 5), "results")]
    assert decays == [0.0, 1.0, 5.0]


def test_a_table_reads_only_the_records_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr("layerfit.config.folders.CONF", tmp_path / "conf")
    make(tmp_path, 2, 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/runs/0123456789.json").write_text("no record, and of no cell")
    with composer():
        assert len(build.load("many").store.records) == 3
