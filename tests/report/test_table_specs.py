"""The specs of `conf/table`: every one loads, every row composes, a profile has nothing of the real run left in it."""

import pytest

from layerfit.config import composer
from layerfit.errors import UserError
from layerfit.report import cells, spec, tune
from layerfit.report.spec import parse
from tests.helpers.slides import PAPERS
from tests.report.test_profile import PROFILED

NAMES = spec.known()
PROFILES = [name for name in NAMES if name.endswith(spec.PROFILE)]
PINNED = {"lisa_main.nano": 15, "ist_commonsense.nano": 28, "location_sweep.nano": 128}
LONGEST = 160


def made(name):
    return cells.cells(spec.load(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_spec_loads(name):
    assert spec.load(name).rows


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_row_composes_and_every_trial(name):
    with composer():
        assert made(name)
        if spec.load(name).tuning is not None:
            assert tune.trials(spec.load(name))


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_the_rows_and_columns_of_its_table(name):
    whole, embedded = spec.load(name.removesuffix(spec.PROFILE)), spec.load(name)
    assert [row.label for row in embedded.rows] == [row.label for row in whole.rows]
    assert [column.label for column in embedded.columns] == [column.label for column in whole.columns]
    assert len(embedded.rows) == PINNED.get(name, len(embedded.rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_runs_in_the_embedded_world_alone(name):
    with composer():
        runs = [cell.run for cell in made(name)]
    runs += [before for run in runs for before in cells.required(run)]
    for run in runs:
        data = [run.dataset, *getattr(run, "ranking_data", {}).values()]
        assert {run.model.id.partition("/")[0], *(one.id.partition("/")[0] for one in data)} == {"layerfit"}
        assert all(run.model.name == one.name.partition("_facts")[0].partition("_rules")[0] for one in data)
        assert run.eval.name == "none" or run.eval.name.startswith(run.model.name)
        assert not run.eval.judge.benchmarks
        assert (run.training.dtype, run.training.packing, run.optim.precision) == ("fp32", False, "mixed")
        assert run.training.max_steps <= LONGEST


@pytest.mark.slow
def test_profiles_share_their_runs():
    """What is one run in two tables is made once. Seeds that a table sets are not those of the next one."""
    with composer():
        seeds = [c for c in made("lisa_seeds.nano") if c.seed == 0]  # first: it sets another seed than the others
        ids = {name: {c.run_id for c in made(name)} for name in ("nano_main", "lisa_main.nano", "lisa_mt_bench.nano")}
        critical = {cells.run_id(run) for c in made("ila_critical.nano") for run in cells.required(c.run)}
        jaccard = {c.run_id for c in made("ila_jaccard.nano")}
    assert ids["lisa_mt_bench.nano"] == ids["lisa_main.nano"]
    assert len(ids["lisa_main.nano"] & ids["nano_main"]) == 13  # vanilla, and four methods by three seeds
    assert len(seeds) == 3
    assert {c.run_id for c in seeds} <= ids["lisa_main.nano"]
    assert len(critical) == 3
    assert critical <= jaccard


@pytest.mark.skipif(not (PAPERS / "slides.txt").is_file(), reason=f"no slides at {PAPERS}")
def test_a_spec_names_a_slide_that_is_there():
    text = (PAPERS / "slides.txt").read_text(encoding="utf-8")
    named = {name: slide for name in NAMES if (slide := spec.load(name).slide) is not None}
    assert {f"{name}{spec.PROFILE}" for name in named if not name.endswith(spec.PROFILE)} == set(PROFILES)
    assert [slide for slide in named.values() if slide not in text] == []


def test_what_stands_for_something_in_one_group_goes_before_what_does_everywhere():
    rows = {
        "A": {"rows": {"LoRA": ["method=lora", "dataset=lima"]}},
        "B": {"rows": {"LoRA": ["method=lora", "dataset=lima"]}},
    }
    nano = {"stands_for": {"dataset=lima": ["dataset=nano"], "B": {"dataset=lima": ["dataset=nano_b"]}}}
    data = {"title": "T", "base": [], "rows": rows, "seeds": [0], "columns": PROFILED["columns"], "nano": nano}
    made = parse("t.nano", data, "conf/table/t.yaml")
    assert [row.overrides[-1] for row in made.rows] == ["dataset=nano", "dataset=nano_b"]
    assert made.stands_for == (("dataset=lima", "dataset=nano"), ("B: dataset=lima", "dataset=nano_b"))
    nano["stands_for"]["B"]["dataset=alpaca_gpt4"] = []
    with pytest.raises(UserError, match="'dataset=alpaca_gpt4', which no row or base has"):
        parse("t.nano", data, "conf/table/t.yaml")
