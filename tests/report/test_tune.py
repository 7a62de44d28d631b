"""Tuning: an equal budget, other seeds, the best mean, and no silent edge."""

import dataclasses
import json
import sys
import types

import pytest

from layerfit.config import composer
from layerfit.errors import UserError
from layerfit.records.record import write
from layerfit.report import build, cells, spec, tune
from layerfit.report.__main__ import main
from tests.helpers.report_fakes import new_project, record, small

KEY, OTHER = "nano_facts_dev/acc", "nano_rules_dev/acc"
ROWS = {"Vanilla": ["method=vanilla"], "LoRA": ["method=lora"], "Full": ["method=full"]}
GRID = {"LoRA": {"optim.lr": [0.001, 0.01, 0.1]}, "Full": {"optim.lr": [0.0001, 0.001, 0.01]}}
TUNING = {"base": ["eval=nano_dev"], "seeds": [100, 101], "objective": {KEY: 1, OTHER: 3}, "trials": 3, "grid": GRID}


def table(**changes):
    return small(rows=ROWS, tuning={**TUNING, **changes})


def lr_score(cell, best):
    """Highest at one learning rate; better at one seed than at the other, by less than the grid's steps."""
    return 0.8 - 0.1 * abs(cell.run.optim.lr / best - 1) ** 0.1 + 0.01 * (cell.seed == 101)


@pytest.fixture(scope="module")
def made():
    with composer():
        return tune.trials(table())


def results(made, folder, *, best, status="ok"):
    for trial in made:
        for cell in trial.cells:
            right = round(1000 * lr_score(cell, best[trial.row]))
            items = {k: [1.0] * right + [0.0] * (1000 - right) for k in (KEY, OTHER)}
            write(record(cell.run, items), items, folder)
    return cells.load([c for t in made for c in t.cells], folder)


def test_every_row_that_trains_gets_its_points_on_the_tuning_seeds(made):
    assert [(t.row, t.point["optim.lr"]) for t in made] == [
        (r, v) for r in ("LoRA", "Full") for v in GRID[r]["optim.lr"]
    ]
    assert {c.seed for t in made for c in t.cells} == {100, 101}
    assert {c.run.eval.name for t in made for c in t.cells} == {"nano_dev"}
    assert {t.point["optim.lr"]: t.cells[0].run.optim.lr for t in made[:3]} == {0.001: 0.001, 0.01: 0.01, 0.1: 0.1}


def test_a_grid_is_a_product():
    assert tune.points({"a": (1, 2), "b": ("x", "y")}) == [{"a": i, "b": j} for i in (1, 2) for j in ("x", "y")]
    assert [tune.override("k", v) for v in (1e-4, True, "svd")] == ["k=0.0001", "k=true", "k=svd"]


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        ({"LoRA": GRID["LoRA"]}, "'Full' has no trials: give it 3"),
        ({**GRID, "Vanilla": {"optim.lr": [1, 2, 3]}}, "'Vanilla' trains nothing"),
        ({**GRID, "LoRA": {"training.micro_batch_size": [1, 2, 4]}}, "are the same run"),
        ({**GRID, "LoRA": {"optim.lrr": [1, 2, 3]}}, "row LoRA: .*lrr"),
    ],
)
def test_an_unequal_or_empty_budget_is_refused(grid, text):
    with composer(), pytest.raises(UserError, match=text):
        tune.trials(table(grid=grid))


def test_the_best_mean_is_chosen(made, tmp_path):
    store = results(made, tmp_path, best={"LoRA": 0.01, "Full": 0.001})
    choices = tune.choose(table(), made, store)
    assert {c.row: c.best.trial.point for c in choices} == {"LoRA": {"optim.lr": 0.01}, "Full": {"optim.lr": 0.001}}
    assert [c.edges for c in choices] == [(), ()]
    assert choices[0].best.values == pytest.approx((0.8, 0.81))
    assert choices[0].best.mean == pytest.approx(0.805)
    assert len(choices[0].outcomes) == 3


def test_the_objective_is_a_weighted_mean_and_lower_can_be_better(made):
    run = record(made[0].cells[0].run, {KEY: [1.0, 0.0], OTHER: [1.0, 1.0]})
    assert tune.objective(run, {KEY: 1, OTHER: 3}) == pytest.approx((0.5 + 3 * 1.0) / 4)
    scores = [dataclasses.replace(s, higher_is_better=s.key != OTHER) for s in run.result.scores]
    worse = dataclasses.replace(run, result=dataclasses.replace(run.result, scores=scores))
    assert tune.objective(worse, {KEY: 1, OTHER: 3}) == pytest.approx((0.5 - 3 * 1.0) / 4)


def test_an_edge_is_three_numbers_wide():
    knobs = {"lr": (1e-3, 1e-1, 1e-2), "rank": (4, 8), "mode": ("a", "b", "c")}
    assert tune.edges({"lr": 1e-2, "rank": 8, "mode": "a"}, knobs) == ()
    assert tune.edges({"lr": 1e-1, "rank": 8, "mode": "a"}, knobs) == ("lr",)
    assert tune.edges({"lr": 1e-3, "rank": 4, "mode": "c"}, knobs) == ("lr",)


def changed(store, name, **result):
    old = store.records[name]
    return cells.Store(
        {**store.records, name: dataclasses.replace(old, result=dataclasses.replace(old.result, **result))}, store.items
    )


def test_a_diverged_trial_loses(made, tmp_path):
    store = results(made, tmp_path, best={"LoRA": 0.01, "Full": 0.001})
    store = changed(store, made[1].cells[0].run_id, status="diverged", message="NaN", scores=[])
    lora = tune.choose(table(), made, store)[0]
    assert lora.best.trial.point != {"optim.lr": 0.01}
    assert [o.mean is None for o in lora.outcomes] == [False, True, False]
    for trial in made[:3]:
        store = changed(store, trial.cells[0].run_id, status="diverged", message="NaN", scores=[])
    with pytest.raises(UserError, match="every trial of LoRA diverged"):
        tune.choose(table(), made, store)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"status": "oom", "message": "at step 3"}, "oom: at step 3"),
        ({"scores": []}, "no score nano_facts_dev/acc"),
        ({"data": None}, "no account of the training data"),
    ],
)
def test_a_trial_that_cannot_be_counted_stops_the_choice(made, tmp_path, result, text):
    store = results(made, tmp_path, best={"LoRA": 0.01, "Full": 0.001})
    name = made[4].cells[1].run_id
    with pytest.raises(UserError, match=rf"1 trials cannot be counted: Full, seed 101 \({name}\): {text}"):
        tune.choose(table(), made, changed(store, name, **result))


def test_a_failed_trial_is_run_again_and_a_diverged_one_is_not(made, tmp_path):
    read = dataclasses.replace(table(), results=str(tmp_path))
    results(made, tmp_path, best={"LoRA": 0.01, "Full": 0.001})
    for cell, status in zip(made[0].cells, ("diverged", "failed"), strict=True):
        old = record(cell.run, {})
        write(dataclasses.replace(old, result=dataclasses.replace(old.result, status=status)), {}, tmp_path)
    assert build.tuning_runs(read, made) == [made[0].cells[1].run]


def test_a_missing_trial_stops_the_choice(made, tmp_path):
    with pytest.raises(UserError, match=r"12 trials cannot be counted: LoRA, seed 100.*no record"):
        tune.choose(table(), made, cells.load([], tmp_path))


def test_what_was_chosen_is_written_and_read_back(made, tmp_path):
    read = dataclasses.replace(table(), results=str(tmp_path), tuned=("small",))
    results(made, tmp_path, best={"LoRA": 0.01, "Full": 0.001})
    build.finish_tuning(read, made, conf=tmp_path)
    tuned = spec.load_tuned(read, tmp_path)
    assert tuned.chosen == {"Vanilla": (), "LoRA": ("optim.lr=0.01",), "Full": ("optim.lr=0.001",)}
    assert (tuned.trials, tuned.seeds, tuned.edges) == (3, (100, 101), {})
    assert tuned.searched["LoRA"] == {"optim.lr": (0.001, 0.01, 0.1)}
    head = (tmp_path / "tuned" / "small.yaml").read_text()
    assert "#   LoRA: 0.8050" in head
    assert "0.25 nano_facts_dev/acc + 0.75 nano_rules_dev/acc" in head
    trials = json.loads((tmp_path / "tuning" / "small.json").read_text())["rows"]["LoRA"]["trials"]
    assert [len(t["objective"]) for t in trials] == [2, 2, 2]
    with composer():
        lora = next(c for c in cells.row_cells(read, tuned) if c.row == "LoRA")
    assert lora.run.optim.lr == 0.01


def test_an_edge_is_not_written_unless_allowed_and_then_recorded(made, tmp_path):
    read = dataclasses.replace(table(), results=str(tmp_path), tuned=("small",))
    results(made, tmp_path, best={"LoRA": 0.1, "Full": 0.001})
    assert [c.edges for c in build.finish_tuning(read, made, conf=tmp_path)] == [("optim.lr",), ()]
    assert (tmp_path / "tuning" / "small.json").exists()
    assert not (tmp_path / "tuned").exists()
    build.finish_tuning(read, made, allow_edge=True, conf=tmp_path)
    assert spec.load_tuned(read, tmp_path).edges == {"LoRA": ("optim.lr",)}


@pytest.fixture
def project(tmp_path, monkeypatch):
    return new_project(tmp_path, monkeypatch)


def test_from_the_command_line(project, capsys, monkeypatch):
    file = project / "conf" / "table" / "tiny.yaml"
    tuning = {**TUNING, "grid": {"LoRA": GRID["LoRA"]}}
    file.write_text(file.read_text() + f"tuning: {json.dumps(tuning)}\n")
    asked = []

    def run_all(runs, *, group):
        asked.append((len(runs), group))
        for run in runs:
            right = 800 if run.optim.lr == 0.1 else 500
            items = {k: [1.0] * right + [0.0] * (1000 - right) for k in (KEY, OTHER)}
            write(record(run, items), items, "results")
        return True

    monkeypatch.setitem(sys.modules, "layerfit.launch.local", types.SimpleNamespace(run_all=run_all))
    monkeypatch.setattr("layerfit.report.__main__.dirt", lambda: None)
    assert main(["tune", "tiny"]) == 1
    out = capsys.readouterr()
    assert "optim.lr=0.1  edge: extend optim.lr" in out.out
    assert "--allow-edge" in out.err
    assert main(["tune", "tiny", "--allow-edge"]) == 0
    assert asked == [(6, "tune-tiny")]
    assert (project / "conf" / "tuned" / "tiny.yaml").exists()
