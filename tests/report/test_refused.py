"""Records that a table refuses: said before anything runs, listed by `todo`, moved away, and run again."""

import dataclasses
import json

import pytest

from layerfit.config import compose, composer, required_runs, run_id
from layerfit.launch import local, queue
from layerfit.records.record import read, write
from layerfit.report import __main__ as command
from layerfit.report import build, cells, checks
from tests.helpers.report_fakes import KEYS, MANIFEST, SHARES, fill, new_project, record, small

CHANGES = "the source tree has uncommitted changes (layerfit/new.py)"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "dirt", lambda: None)
    return new_project(tmp_path, monkeypatch)


def finish(run, *, dirty):
    items = {KEYS[0]: [float(i % 3 == 0) for i in range(30)]}
    made = record(run, items)
    measured = dataclasses.replace(made.measured, manifest={**MANIFEST, "dirty": dirty})
    write(dataclasses.replace(made, measured=measured), items, run.paths.results)


@pytest.fixture
def started(monkeypatch):
    """Runs that were started; each is finished at once, on a clean tree."""
    asked = []

    def run_all(runs, *, group):
        todo = [run for run in runs if read(run.paths.results, run_id(run)) is None]
        asked.extend(run_id(run) for run in todo)
        for run in todo:
            finish(run, dirty=False)
        return True

    monkeypatch.setattr(local, "run_all", run_all)
    return asked


def loaded():
    with composer():
        return build.load("tiny")


def test_a_dirty_tree_is_refused_before_anything_runs(project, started, monkeypatch, capsys):
    monkeypatch.setattr(checks, "dirt", lambda: CHANGES)
    assert command.main(["table", "tiny"]) == 1
    said = capsys.readouterr().err
    assert f"{CHANGES}: commit first, 3 runs are to be made" in said
    assert "--draft" in said
    assert started == []
    assert command.main(["table", "tiny", "--draft", "--no-figures"]) == 0  # asked for, so it runs
    assert len(started) == 3


def test_a_finished_table_is_printed_on_a_dirty_tree(project, started, monkeypatch):
    assert command.main(["table", "tiny", "--no-figures"]) == 0
    monkeypatch.setattr(checks, "dirt", lambda: CHANGES)
    assert command.main(["table", "tiny", "--no-figures"]) == 0


def test_settings_that_a_table_refuses_are_refused_before_anything_runs(project, started, capsys):
    path = project / "conf" / "table" / "tiny.yaml"
    path.write_text(path.read_text().replace("eval=nano,", "eval=nano, eval.limit=4,"))
    assert command.main(["table", "tiny"]) == 1
    assert "truncated evaluation: eval.limit=4: Vanilla; LoRA, seed 0; LoRA, seed 1" in capsys.readouterr().err
    assert started == []
    assert command.main(["todo", "tiny", "--replace"]) == 0
    assert "moved" not in capsys.readouterr().out  # another run would end the same


def test_refused_records_are_listed_moved_away_and_run_again(project, started, capsys):
    vanilla, first, second = loaded().cells
    for cell, dirty in ((vanilla, False), (first, True), (second, None)):
        finish(cell.run, dirty=dirty)
    before = (project / "results" / "runs" / f"{first.run_id}.json").read_text()
    assert command.main(["table", "tiny"]) == 1
    said = capsys.readouterr().err
    assert "dirty tree: LoRA, seed 0" in said
    assert "--replace" in said
    assert command.main(["todo", "tiny"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"{first.run_id}  {'LoRA, seed 0':32}  refused: dirty tree" in said
    assert said[-2:] == ["nothing to do", "2 records are refused; to run them again: todo tiny --replace"]
    assert command.main(["todo", "tiny", "--replace"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 records moved to results/replaced/")
    assert said[-1] == "2 runs to do"
    (moved,) = (project / "results" / "replaced").glob(f"*/runs/{first.run_id}.json")
    assert moved.read_text() == before
    assert command.main(["table", "tiny", "--no-figures"]) == 0
    assert sorted(started) == sorted([first.run_id, second.run_id])


def test_tuning_refuses_first_and_replaces(project, started, monkeypatch, capsys):
    tuning = {"seeds": [100], "objective": {"nano_rules_dev/acc": 1}, "trials": 2, "base": ["eval=nano_dev"]}
    file = project / "conf" / "table" / "tiny.yaml"
    grid = {"LoRA": {"optim.lr": [0.001, 0.01]}}
    file.write_text(file.read_text() + f"tuning: {json.dumps({**tuning, 'grid': grid})}\n")
    monkeypatch.setattr(command, "dirt", lambda: CHANGES)
    assert command.main(["tune", "tiny"]) == 2
    assert f"2 trials are to run and {CHANGES}" in capsys.readouterr().err
    with composer():
        read_ = build.spec.load("tiny")
        runs = [cell.run for trial in command.tune.trials(read_) for cell in trial.cells]
    finish(runs[0], dirty=True)
    assert command.main(["tune", "tiny"]) == 2
    assert "1 trials cannot be counted" in capsys.readouterr().err
    monkeypatch.setattr(command, "dirt", lambda: None)
    command.main(["tune", "tiny", "--replace"])
    assert "1 records moved to results/replaced/" in capsys.readouterr().out
    assert run_id(runs[0]) in started


def test_a_run_that_rests_on_a_dirty_ranking_is_refused_with_it(tmp_path):
    spec = small(results=str(tmp_path))
    with composer():
        made = cells.cells(spec)
    fill(made, tmp_path, SHARES, count=20)
    ila = next(cell for cell in made if (cell.row, cell.seed) == ("ILA", 1))
    (ranking,) = required_runs(ila.run)
    ranking = dataclasses.replace(ranking, paths=ila.run.paths)
    finish(ranking, dirty=True)
    store = cells.load(made, tmp_path)
    assert checks.problems(spec, made, store) == ["required ila_ranking run: dirty tree: ILA, seed 1"]
    found = checks.refused(KEYS, made, store)
    assert {one.run_id for one in found} == {ila.run_id, run_id(ranking)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda old: {"scores": [dataclasses.replace(old.scores[0], num_available=99), *old.scores[1:]]}, "truncated"),
        (lambda old: {"data": dataclasses.replace(old.data, complete=False)}, "training data nano is not complete"),
        (lambda old: {"scores": old.scores[1:]}, None),  # the evaluation does not give it: another run neither
    ],
)
def test_what_another_run_may_mend_is_listed(tmp_path, change, reason):
    spec = small(results=str(tmp_path))
    with composer():
        made = cells.cells(spec)
    fill(made, tmp_path, SHARES, count=20)
    store = cells.load(made, tmp_path)
    name = next(cell.run_id for cell in made if cell.row == "LoRA")
    old = store.records[name]
    store.records[name] = dataclasses.replace(old, result=dataclasses.replace(old.result, **change(old.result)))
    found = checks.refused(KEYS, made, store)
    assert checks.problems(spec, made, store)
    assert [one.reason.startswith(str(reason)) for one in found] == ([] if reason is None else [True])


def test_a_run_warns_in_one_line_before_it_starts(monkeypatch, capsys):
    with composer():
        run = compose(["method=full"])
    monkeypatch.setattr(queue, "dirt", lambda: CHANGES)
    queue.prepare([run, run])
    assert capsys.readouterr().err == (
        f"warning: {CHANGES}; the records say so, and tables refuse them without --draft\n"
    )
