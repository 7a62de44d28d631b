"""Runs that must exist before a run: the rankings that it goes by, on its own data or on others'."""

import dataclasses
import json

import pytest

from layerfit import config
from layerfit.config import required_runs, run_id
from layerfit.errors import UserError
from layerfit.launch.local import run_all
from layerfit.launch.queue import Queue, Queued, prepare
from layerfit.records.record import read
from layerfit.report import build, cells
from tests.helpers.report_fakes import record

NO_ROBOTS, ALPACA, LIMA = (f"+dataset@ranking_data.{n}={n}" for n in ("no_robots", "alpaca_gpt4", "lima"))


@pytest.fixture(scope="module", autouse=True)
def _composing():
    with config.composer():
        yield


def ila(*words):
    return config.compose(["method=ila", "dataset=lima", "model=nano", *words])


def ids(run):
    return [run_id(before) for before in required_runs(run)]


def alone(dataset, *words):
    return run_id(config.compose(["method=ila_ranking", f"dataset={dataset}", "model=nano", "eval=none", *words]))


@pytest.mark.parametrize("words", [[], ["seed=3"], ["seed=3", "dataset.seed=1", "method.seed=2"], ["optim.lr=0.5"]])
def test_a_ranking_is_the_run_of_the_same_words_with_its_own_data(words):
    assert ids(ila(*words)) == [alone("lima", *words)]
    assert ids(ila(NO_ROBOTS, *words)) == [alone("no_robots", *words)]
    both = ids(ila(ALPACA, LIMA, NO_ROBOTS, *words))
    assert both == [alone(name, *words) for name in ("lima", "alpaca_gpt4", "no_robots")]  # its own first
    assert len(set(both)) == 3


def test_a_rankings_length_follows_its_data_unless_the_run_sets_one():
    """512 tokens is LIMA's, 256 is what the authors of the other give theirs; the model has room for both."""
    words, other = ("model.max_positions=2048",), "+dataset@ranking_data.c=commonsense_170k"
    own, found = required_runs(ila(*words, other, LIMA))
    assert (own.training.max_length, found.training.max_length) == (512, 256)
    assert run_id(found) == alone("commonsense_170k", *words)
    (found,) = required_runs(ila(*words, other, "training.max_length=300"))
    assert (found.training.max_length, run_id(found)) == (
        300,
        alone("commonsense_170k", *words, "training.max_length=300"),
    )


def test_a_fine_tune_is_named_by_the_data_of_its_rankings_and_by_nothing_else_of_them():
    plain, other = ila(), ila(NO_ROBOTS)
    assert run_id(ila(LIMA)) == run_id(plain) != run_id(other)
    assert run_id(ila("+dataset@ranking_data.x=no_robots")) == run_id(other)
    assert run_id(ila(LIMA, NO_ROBOTS)) == run_id(ila(NO_ROBOTS, LIMA)) != run_id(other)
    assert run_id(ila(NO_ROBOTS, "ranking_data.no_robots.max_length=9999")) == run_id(other)  # nano has 128 positions
    assert run_id(ila(NO_ROBOTS, "ranking_data.no_robots.num_validation=5")) != run_id(other)
    several = [run_id(ila(LIMA, NO_ROBOTS, f"method.combine={c}")) for c in ("intersection", "mean_rank", "matched")]
    assert len({*several, run_id(other), run_id(plain)}) == 5


@pytest.mark.parametrize("table", ["nano_main", "nano_location"])
def test_records_that_were_committed_before_are_found(table):
    """ILA and static, among others, from before there was a choice or other data."""
    loaded = build.load(table)
    assert loaded.todo() == []
    settings = loaded.store.records[loaded.cells[-1].run_id].result.config
    assert not {"freeze", "combine", "select", "ranking_run"} & set(settings["method"])
    assert "ranking_data" not in settings


def by_modules(*words):
    choose = ["method=static", "method.base=lora", "method.unit=module", "method.select=most", "method.num_units=3"]
    return config.compose([*choose, "+method@method.ranking_run=ila_ranking", *words])


def test_a_method_that_ranks_is_named_with_its_own_keys():
    run = by_modules("method.ranking_run.rank=3", "method.seed=4", "dataset=lima", "model=nano")
    assert ids(run) == [alone("lima", "method.rank=3", "method.seed=4")]
    assert run_id(run) != run_id(by_modules("method.ranking_run.rank=5", "method.seed=4", "dataset=lima", "model=nano"))
    assert run_id(by_modules("method.select=random")) == run_id(
        by_modules("method.select=random", "method.ranking_run.rank=5")
    )


@pytest.mark.parametrize("select", ["most", "least"])
def test_blocks_of_a_greedy_removal(select):
    """Its run is that of the same words: the arms of a table share it."""
    words = ["model=nano", "method.seed=2", "training.max_length=12"]
    choose = ["method=static", "method.base=lora", f"method.select={select}", "method.num_units=4"]
    ranking = ["+method@method.ranking_run=greedy_ranking", "method.ranking_run.rank=2"]
    run = config.compose([*words, *choose, *ranking])
    alone = config.compose([*words, "method=greedy_ranking", "method.rank=2", "eval=none"])
    assert ids(run) == [run_id(alone)]
    found = {"ranking": {"scores": {f"layers.{i}": float(i * 3 % 16) for i in range(16)}}}
    state = run.method.begin(run.shape(run.model.anatomy()), [found])
    rounds = {"most": {5, 10, 15, 4}, "least": {0, 11, 6, 1}}  # 3 i mod 16 = 15, 14, 13, 12 and 0, 1, 2, 3
    assert set(state.units) == {f"layers.{i}" for i in rounds[select]}


@pytest.mark.parametrize("make", [lambda: ila(NO_ROBOTS, ALPACA), lambda: by_modules("method.ranking_run.rank=3")])
def test_a_run_comes_back_from_its_json(make):
    run = make()
    back = config.load(json.loads(json.dumps(config.dump(run))))
    assert (run_id(back), ids(back)) == (run_id(run), ids(run))
    assert back.method == run.method


def test_rankings_are_queued_once_before_what_needs_them():
    queue = Queue("g")
    for run in (ila(LIMA, NO_ROBOTS), ila(NO_ROBOTS), ila()):
        queue.add(run)
    kinds = [(one.run.method_name(), one.run.dataset.name) for one in queue.runs.values()]
    assert kinds.count(("ila_ranking", "no_robots")) == kinds.count(("ila_ranking", "lima")) == 1
    order = list(queue.runs)
    assert len(order) == 5
    assert all(order.index(before) < order.index(name) for name, one in queue.runs.items() for before in one.needs)
    assert sorted(len(one.needs) for one in queue.runs.values() if one.needs) == [1, 1, 2]


def test_what_a_table_still_needs_says_which_data():
    run = ila(LIMA, NO_ROBOTS)
    cell = cells.Cell("Both", 0, (), run, run_id(run))
    own, other = required_runs(run)
    todo = cells.queue([cell], cells.Store({}, {}))
    assert [t.name for t in todo] == [
        "ila_ranking for Both, seed 0",
        "ila_ranking on no_robots for Both, seed 0",
        cell.name,
    ]
    done = cells.Store({run_id(own): record(own, {})}, {})
    assert [t.run_id for t in cells.queue([cell], done)] == [run_id(other), cell.run_id]


MISTAKES = {
    "no ranking is made": (["method=lora", NO_ROBOTS], "has none here"),
    "a control": (["method.freeze=last", NO_ROBOTS], "has none here"),
    "a file": (["method.ranking=x.json", NO_ROBOTS], "has none here"),
    "the same data twice": (["+dataset@ranking_data.a=no_robots", "+dataset@ranking_data.b=no_robots"], "a, b"),
    "one ranking to combine": (["method.combine=mean_rank"], "there is one"),
    "nothing to match": ([NO_ROBOTS, ALPACA, "method.combine=matched"], "the run's own data"),
    "nothing held out": (
        [NO_ROBOTS, "ranking_data.no_robots.num_validation=0", "method.mask_data=validation"],
        "requires a ila_ranking run on dataset=no_robots: .* holds none out",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_cannot_be_had_is_said_when_it_is_composed(case):
    words, text = MISTAKES[case]
    with pytest.raises(UserError, match=text):
        ila(*words)


def test_static_goes_by_one_ranking():
    with pytest.raises(UserError, match="one ranking"):
        by_modules(NO_ROBOTS, ALPACA)


def test_the_data_of_a_ranking_is_looked_at_before_anything_starts(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n')
    queue = Queue("g")
    words = ["+dataset@ranking_data.mine=local", f"ranking_data.mine.path={path}", "ranking_data.mine.form=messages"]
    queue.add(config.compose(["method=ila", *words, f"paths.results={tmp_path}", f"paths.outputs={tmp_path}"]))
    with pytest.raises(UserError, match="messages"):
        prepare([one.run for one in queue.runs.values()])


def test_the_data_of_a_ranking_is_fetched():
    from layerfit.prefetch.__main__ import runs_of
    from layerfit.prefetch.needs import needs

    wanted = needs(runs_of(["method=ila", "dataset=lima", "eval=none", NO_ROBOTS]))
    assert [need.repo for need in wanted] == ["GAIR/lima", "HuggingFaceH4/no_robots"]


def test_a_job_waits_for_all_that_it_requires(tmp_path):
    from layerfit.launch.slurm import waves
    from layerfit.launch.slurm_job import refusal
    from layerfit.records.record import write

    run = ila(LIMA, NO_ROBOTS, f"paths.results={tmp_path}")
    needs = {"d": ("b", "a"), "e": ("b",), "a": ()}
    assert waves({name: Queued(run, name, needed) for name, needed in needs.items()}) == [["e", "a"], ["d"]]
    own, other = required_runs(run)
    queued = Queued(run, run_id(run), tuple(ids(run)))
    write(record(own, {}), {}, tmp_path)
    assert refusal(queued) == f"its required run {run_id(other)} is not ok"
    write(record(other, {}), {}, tmp_path)
    assert refusal(queued) is None
    broken = record(other, {})
    write(dataclasses.replace(broken, result=dataclasses.replace(broken.result, status="oom")), {}, tmp_path)
    assert refusal(queued) == f"its required run {run_id(other)} is not ok"


@pytest.mark.slow
def test_a_fine_tune_freezes_what_the_rankings_of_two_data_sets_share(tmp_path):
    """Worked out again here from the two ranking files; the rankings are shared."""
    words = ["model=nano", "training.max_steps=4", "training.batch_size=16", "method.mask_steps=1", "method.window=2"]
    other = ["ranking_data.b.split=validation", "ranking_data.b.num_rows=null", "ranking_data.b.validation_split=null"]
    words += ["+dataset@ranking_data.a=nano", "+dataset@ranking_data.b=nano", *other, "eval=none"]
    words += [f"paths.results={tmp_path}/results", f"paths.outputs={tmp_path}/outputs"]
    runs = [config.compose(["method=ila", f"method.combine={how}", *words]) for how in ("intersection", "matched")]
    assert run_all(runs, group="sweep")
    files = [json.loads((tmp_path / f"results/rankings/{name}.json").read_text())["scores"] for name in ids(runs[0])]
    least = [sorted(scores, key=scores.__getitem__) for scores in files]
    common = set(least[0][:28]) & set(least[1][:28])
    found = [read(f"{tmp_path}/results", run_id(run)).result for run in runs]
    assert 0 < len(common) < 28
    assert set(found[0].findings["frozen"]) == common
    assert set(found[1].findings["frozen"]) == set(least[0][: len(common)])
    assert len(list((tmp_path / "results/runs").glob("*.json"))) == 4
