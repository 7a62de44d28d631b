"""A table refuses every number that would mean something else than it seems to."""

import dataclasses

import pytest

from layerfit.config import composer, required_runs, run_id
from layerfit.records.record import record_path
from layerfit.report import cells
from layerfit.report.checks import notes, problems
from tests.helpers.report_fakes import KEYS, SHARES, fill, small


@pytest.fixture(scope="module")
def table():
    with composer():
        return cells.cells(small())


@pytest.fixture(scope="module")
def complete(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    fill(table, folder, SHARES, count=40)
    return cells.load(table, folder)


def lora(table):
    return next(c for c in table if (c.row, c.seed) == ("LoRA", 1))


def changed(store, name, *, result=None, measured=None, **fields):
    """The store with one record changed."""
    old = store.records[name]
    new = dataclasses.replace(
        old,
        result=dataclasses.replace(old.result, **(result or {})),
        measured=dataclasses.replace(old.measured, **(measured or {})),
        **fields,
    )
    return cells.Store({**store.records, name: new}, store.items)


def first_score(store, name, **fields):
    scores = store.records[name].result.scores
    return changed(store, name, result={"scores": [dataclasses.replace(scores[0], **fields), *scores[1:]]})


def manifest(store, name, **fields):
    return changed(store, name, measured={"manifest": {**store.records[name].measured.manifest, **fields}})


def test_a_complete_table_has_no_problem_and_nothing_to_note(table, complete):
    assert problems(small(), table, complete) == []
    assert notes(table, complete) == []


CASES = {
    "dirty tree: LoRA, seed 1": lambda s, n: manifest(s, n, dirty=True),
    "not known whether the tree was clean: LoRA, seed 1": lambda s, n: manifest(s, n, dirty=None),
    "diverged: loss is NaN at step 3: LoRA, seed 1": lambda s, n: changed(
        s, n, result={"status": "diverged", "message": "loss is NaN at step 3"}
    ),
    f"no score {KEYS[0]}": lambda s, n: changed(s, n, result={"scores": s.records[n].result.scores[1:]}),
    f"truncated evaluation: {KEYS[0]} on 40 of 2000 items": lambda s, n: first_score(s, n, num_available=2000),
    "cut copy": lambda s, n: first_score(s, n, data_complete=False),
    "mixed task version in column Facts: 1.0": lambda s, n: first_score(s, n, version="2.0"),
    "mixed number of shots in column Facts": lambda s, n: first_score(s, n, num_fewshot=5),
    "mixed items asked in column Facts": lambda s, n: first_score(s, n, docs="others"),
    "is no share; set unit: plain": lambda s, n: first_score(s, n, value=7.3),
    "training data nano is not complete": lambda s, n: changed(
        s, n, result={"data": dataclasses.replace(s.records[n].result.data, complete=False)}
    ),
    "no account of the training data": lambda s, n: changed(s, n, result={"data": None}),
    "mixed lm_eval version": lambda s, n: manifest(s, n, versions={"lm_eval": "0.4.14"}),
}


@pytest.mark.parametrize("text", CASES)
def test_a_table_refuses(table, complete, text):
    store = CASES[text](complete, lora(table).run_id)
    assert any(text in line for line in problems(small(), table, store)), problems(small(), table, store)


def test_a_missing_cell_and_a_missing_required_run_are_named(table, complete):
    ila = next(c for c in table if (c.row, c.seed) == ("ILA", 2))
    gone = {lora(table).run_id, *map(run_id, required_runs(ila.run))}
    store = cells.Store({k: v for k, v in complete.records.items() if k not in gone}, complete.items)
    assert problems(small(), table, store) == [
        "no record: LoRA, seed 1",
        "required ila_ranking run: no record: ILA, seed 2",
    ]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["eval.limit=20"], "truncated evaluation: eval.limit=20"),
        (["model.weights=random"], "random weights"),
        (["dataset.num_rows=9"], "training data nano is not known to be complete"),
        (["engine=torch"], "mixed engine: zero0"),
    ],
)
def test_a_table_refuses_what_its_own_settings_say(tmp_path, overrides, text):
    rows = {"LoRA": ["method=lora"], "Other": ["method=lora", "method.rank=2", *overrides]}
    spec = small(rows=rows, seeds=[0])
    with composer():
        made = cells.cells(spec)
    fill(made, tmp_path, {"LoRA": SHARES["LoRA"], "Other": SHARES["LoRA"]}, count=20)
    store = cells.load(made, tmp_path)
    for name, old in store.records.items():
        data = dataclasses.replace(old.result.data, complete=None)
        store.records[name] = dataclasses.replace(old, result=dataclasses.replace(old.result, data=data))
    assert any(text in line for line in problems(spec, made, store)), problems(spec, made, store)


def test_fewer_items_than_the_column_asks_for(table, complete):
    spec = small(columns={"Facts": {"score": KEYS[0], "min_items": 2000}})
    assert "asks for 2000: Vanilla; LoRA, seed 0;" in problems(spec, table, complete)[0]


def test_other_packages_are_noted_not_refused(table, complete):
    versions = {
        "lm_eval": "0.4.13",
        "torch": "2.12.0",
        "transformers": "5.17.0",
        "deepspeed": "0.19.8",
        "peft": "0.21.0",
    }
    store = manifest(complete, lora(table).run_id, versions=versions)
    assert problems(small(), table, store) == []
    assert notes(table, store) == [
        "mixed torch version: 2.11.0 (Vanilla; LoRA, seed 0 and 4 more), 2.12.0 (LoRA, seed 1)"
    ]


def test_a_copied_record_does_not_pass_for_another_run(table, tmp_path):
    fill(table, tmp_path, SHARES, count=20)
    record_path(tmp_path, table[1].run_id).write_text(record_path(tmp_path, table[2].run_id).read_text())
    (problem,) = problems(small(), table, cells.load(table, tmp_path))
    copied, of = table[1].run_id, table[2].run_id
    assert problem == f"broken record {copied}.json: it is of run {of}: {table[1].name}"
    (todo,) = cells.queue(table, cells.load(table, tmp_path))
    assert todo.run_id == copied
