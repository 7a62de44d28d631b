"""Table specs and the cells they stand for."""

import dataclasses

import pytest

from layerfit.config import CONF, compose, composer, required_runs, run_id
from layerfit.errors import UserError
from layerfit.records.record import write
from layerfit.report import cells, spec
from layerfit.report.spec import Tuned, parse
from tests.helpers.report_fakes import SHARES, SPEC, fill, record, small


@pytest.fixture(scope="module")
def table():
    with composer():
        return cells.cells(small())


def changed(**sections):
    return {**SPEC, **sections}


TUNING = {
    "base": ["eval=nano_dev"],
    "seeds": [100, 101],
    "objective": {"nano_facts_dev/acc": 1},
    "trials": 3,
    "grid": {"LoRA": {"optim.lr": [0.001, 0.01, 0.1]}},
}


PUBLISHED = {"source": "a paper", "columns": ["Facts"], "rows": {"LoRA": ["**43.10 ± 0.40**"]}}


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (changed(colums={}), ["'colums'", "allowed:", "columns"]),
        (changed(columns={"Facts": {"score": "a/b", "untt": "s"}}), ["'untt'", "columns.Facts", "unit"]),
        (changed(columns={"Facts": "nano_facts"}), ["columns.Facts", "'nano_facts'", "task/metric"]),
        (changed(columns={"A": "a/b", "B": "a/b"}), ["twice", "a/b"]),
        (changed(seeds=[]), ["seeds=[]"]),
        (changed(seeds=[0, 0]), ["seeds=[0, 0]", "different"]),
        (changed(seeds=["a"]), ["'a'"]),
        (changed(rows={"LoRA": "method=lora"}), ["rows.LoRA", "list"]),
        (changed(rows={"LoRA": ["method=lora", "seed=3"]}), ["rows.LoRA", "seed"]),
        (changed(rows={}), ["rows"]),
        ({k: v for k, v in SPEC.items() if k != "columns"}, ["lacks columns"]),
        (changed(tuning={**TUNING, "seeds": [2, 100]}), ["tuning.seeds=[2]"]),
        (changed(tuning={**TUNING, "trials": 4}), ["tuning.grid.LoRA", "3 points", "tuning.trials=4"]),
        (changed(tuning={**TUNING, "grid": {"Lora": {"a": [1, 2, 3]}}}), ["'Lora'", "LoRA"]),
        (changed(tuning={**TUNING, "objective": {"nano_facts/acc": 1}}), ["nano_facts/acc", "other items"]),
        (changed(tuning={**TUNING, "objective": {"x/acc": -1}}), ["x/acc=-1"]),
        (changed(tuning={**TUNING, "grid": {"LoRA": {"a": [1, 1, 2]}}}), ["twice"]),
        (changed(published=PUBLISHED | {"columns": ["Fact"]}), ["'Fact'", "Facts"]),
        (changed(published={k: v for k, v in PUBLISHED.items() if k != "source"}), ["source"]),
        (changed(published=PUBLISHED | {"rows": {"LoRA": ["high"]}}), ["published.rows.LoRA, Facts", "'high'"]),
        (changed(published=PUBLISHED | {"rows": {"LoRA": [1, 2]}}), ["published.rows.LoRA", "1 numbers"]),
        (changed(published=PUBLISHED | {"rows": {"Lora": [1]}}), ["'Lora'", "LoRA"]),
        (changed(columns={"Facts": {"score": "a/b", "unit": "kg"}}), ["unit='kg'", "percent", "gib"]),
        (changed(columns={"Facts": {"score": "a/b", "hole": "x"}}), ["columns.Facts", "or a hole"]),
        (changed(columns={"Facts": {"score": "a/b", "seed": 9}}), ["columns.Facts.seed=9", "(0, 1, 2)"]),
        (changed(tuned_as={"Lora": "LoRA"}), ["'Lora'", "LoRA"]),
        (changed(rows={"A": {"rows": {"B C": ["a=1"]}}, "A B": {"rows": {"C": ["a=1"]}}}), ["'A B C'", "rename"]),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_choices(data, named):
    with pytest.raises(UserError) as caught:
        parse("small", data, "conf/table/small.yaml")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("conf/table/small.yaml: ")
    assert all(part in text for part in named), text


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(UserError, match=r"'nope'.*nano_main"):
        spec.load("nope")


@pytest.mark.parametrize("path", sorted((CONF / "table").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_committed_table_can_be_read(path):
    assert spec.load(path.stem).rows


def test_yaml_is_read_with_its_numbers_and_without_double_keys(tmp_path):
    (tmp_path / "table").mkdir()
    file = tmp_path / "table" / "t.yaml"
    text = "title: T\nrows: {A: [method=lora]}\nseeds: [0]\ncolumns: {F: {score: a/b, chance: 2.5e-1}}\n"
    file.write_text(text)
    assert spec.load("t", tmp_path).columns[0].chance == 0.25
    for bad in (text + "seeds: [1]\n", text + "note: a: b\n"):
        file.write_text(bad)
        with pytest.raises(UserError) as caught:
            spec.load("t", tmp_path)
        assert "\n" not in str(caught.value)


def test_tuned_values_must_cover_every_row(tmp_path):
    table = dataclasses.replace(small(), tuned=("t",))
    with pytest.raises(UserError, match="make tune T=t"):
        spec.load_tuned(table, tmp_path)
    (tmp_path / "tuned").mkdir()
    file = tmp_path / "tuned" / "t.yaml"
    file.write_text("trials: 3\nseeds: [100]\nchosen: {Vanilla: [], LoRA: [optim.lr=0.01]}\n")
    with pytest.raises(UserError, match="ILA"):
        spec.load_tuned(table, tmp_path)
    file.write_text("trials: 3\nseeds: [100]\nchosen: {Vanilla: [], LoRA: [optim.lr=0.01], ILA: []}\n")
    assert spec.load_tuned(table, tmp_path).chosen["LoRA"] == ("optim.lr=0.01",)


def test_cells_are_the_runs_that_the_command_line_would_make(table):
    assert [(c.row, c.seed) for c in table] == [("Vanilla", None)] + [
        (r, s) for r in ("LoRA", "ILA") for s in (0, 1, 2)
    ]
    with composer():
        assert [c.run_id for c in table] == [run_id(compose(c.overrides)) for c in table]
    assert len({c.run_id for c in table}) == 7


def test_a_pinned_seed_stays_and_the_others_follow():
    rows = {"A": ["method=lora", "method.seed=9"]}
    with composer():
        made = cells.cells(small(rows=rows))
    assert [(c.run.seed, c.run.dataset.seed, c.run.method.seed) for c in made] == [(s, s, 9) for s in (0, 1, 2)]


def test_tuned_values_come_after_the_row_and_replace_it():
    chosen = {"Vanilla": (), "LoRA": ("optim.lr=0.5", "method.rank=2"), "ILA": ()}
    tuned = Tuned("t", 1, (100,), chosen, {}, {})
    with composer():
        made = cells.row_cells(small(), tuned)
    lora = next(c for c in made if c.row == "LoRA")
    assert (lora.run.optim.lr, lora.run.method.rank) == (0.5, 2)
    assert lora.overrides.count("method.rank=2") == 1
    assert "method.rank=4" not in lora.overrides


def test_a_row_that_does_not_compose_is_named():
    with composer(), pytest.raises(UserError, match=r"table small, row LoRA: .*rnk"):
        cells.cells(small(rows={"LoRA": ["method=lora", "method.rnk=3"]}))


def test_two_rows_must_not_be_one_run():
    with composer(), pytest.raises(UserError, match="A and B are the same run"):
        cells.cells(small(rows={"A": ["method=lora"], "B": ["method=lora", "label=other"]}))


def test_records_go_where_the_table_says():
    with composer():
        assert {c.run.paths.results for c in cells.cells(small(results="outputs/demo"))} == {"outputs/demo"}


def test_the_queue_is_every_missing_run_once_required_ones_first(table, tmp_path):
    queue = cells.queue(table, cells.load(table, tmp_path))
    rankings = [run_id(before) for c in table if c.row == "ILA" for before in required_runs(c.run)]
    assert len(queue) == 10 == len({todo.run_id for todo in queue})
    assert [todo.run_id for todo in queue[:3]] == rankings
    assert [todo.run_id for todo in queue[3:]] == [c.run_id for c in table]
    assert {todo.reason for todo in queue} == {"no record"}


def test_finished_runs_leave_the_queue_and_failed_ones_stay_with_their_reason(table, tmp_path):
    fill(table, tmp_path, SHARES)
    assert cells.queue(table, cells.load(table, tmp_path)) == []
    made = record(table[1].run, {})
    failed = dataclasses.replace(made.result, status="oom", message="out of memory at step 3")
    write(dataclasses.replace(made, result=failed), {}, tmp_path)
    (todo,) = cells.queue(table, cells.load(table, tmp_path))
    assert (todo.run_id, todo.reason) == (table[1].run_id, "oom: out of memory at step 3")


def test_a_broken_record_is_none_and_the_reason_is_kept(table, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{table[0].run_id}.json").write_text("{}")
    store = cells.load(table, tmp_path)
    assert table[0].run_id not in store.records
    assert "schema" in store.broken[table[0].run_id]
