"""Which units train: sets worked out by hand, and what must not be asked for."""

import pytest

from layerfit import config
from layerfit.anatomy import Shape
from layerfit.errors import UserError
from layerfit.importance import choice
from layerfit.methods.base import Context
from layerfit.methods.ila import ILA, ILARanking
from layerfit.methods.static import Static
from tests.helpers.tiny import composed, engine_for

UNITS = [f"layers.{i}.{name}" for i in range(4) for name in ("q", "up")]
SHAPE = Shape(num_layers=4, num_steps=1, linear=("q", "up"))


def findings(*scores: float) -> dict:
    return {"ranking": {"scores": dict(zip(UNITS, scores, strict=True))}}


ONE, TWO, THREE = (
    findings(1, 2, 3, 4, 5, 6, 7, 8),
    findings(10, 80, 20, 30, 70, 40, 60, 50),  # another scale; of the least four: 0.q, 1.q, 1.up, 2.up
    findings(-4, -1, -8, -3, -6, -7, -2, -5),  # 1.q, 2.up, 2.q, 3.up
)
LARGE = findings(100, 200, 300, 400, 500, 600, 700, 800)  # ranks as ONE's; with THREE: 6, 10, 4, 10, 8, 8, 14, 12
# Ranks of the first three: 0.q 1+1+5, 0.up 2+8+8, 1.q 3+2+1, 1.up 4+3+6, 2.q 5+7+3, 2.up 6+4+2, 3.q 7+6+7, 3.up 8+5+4.


def frozen(*given: dict, **settings: object) -> list[str]:
    method = ILA(**{"freeze_fraction": 0.5, "seed": 0, **settings})
    return method.begin(SHAPE, list(given)).units


@pytest.mark.parametrize(
    ("given", "settings", "expected"),
    [
        ([ONE], {}, UNITS[:4]),
        ([ONE], {"freeze": "most"}, UNITS[4:]),
        ([TWO], {"freeze_fraction": 0.25}, ["layers.0.q", "layers.1.q"]),
        ([TWO], {"freeze_fraction": None, "train_fraction": 0.75}, ["layers.0.q", "layers.1.q"]),
        ([TWO], {"freeze_fraction": 0.25, "freeze": "most"}, ["layers.0.up", "layers.2.q"]),
        ([], {"freeze": "first", "freeze_fraction": 0.375}, ["layers.0.q", "layers.0.up", "layers.1.q"]),
        ([], {"freeze": "last", "freeze_fraction": 0.375}, ["layers.2.up", "layers.3.q", "layers.3.up"]),
        ([ONE, TWO], {}, ["layers.0.q", "layers.1.q", "layers.1.up"]),
        ([ONE, TWO, THREE], {}, ["layers.1.q"]),
        ([TWO, THREE], {"freeze": "most"}, ["layers.0.up", "layers.3.q"]),
        ([ONE, TWO], {"combine": "matched"}, ["layers.0.q", "layers.0.up", "layers.1.q"]),
        ([TWO, ONE], {"combine": "matched"}, ["layers.0.q", "layers.1.q", "layers.1.up"]),
        ([ONE, TWO, THREE], {"combine": "mean_rank"}, ["layers.0.q", "layers.1.q", "layers.1.up", "layers.2.up"]),
        ([LARGE, THREE], {"combine": "mean_rank"}, ["layers.0.q", "layers.1.q", "layers.2.q", "layers.2.up"]),
        ([findings(1, 2, 3, 4, 8, 7, 6, 5), findings(8, 7, 6, 5, 1, 2, 3, 4)], {}, []),
    ],
)
def test_frozen_sets_are_those_worked_out_by_hand(given, settings, expected):
    assert frozen(*given, **settings) == expected


def test_ties_go_by_name():
    assert choice.by_importance(dict.fromkeys("cab", 1.0), 2, "least") == {"a", "b"}
    assert choice.by_importance(dict.fromkeys("cab", 1.0), 2, "most") == {"b", "c"}


def test_a_draw_is_the_seeds_of_the_right_size_and_even_over_the_units():
    sets = [frozen(freeze="random", seed=seed) for seed in range(400)]
    assert {len(one) for one in sets} == {4}
    assert sets[7] == frozen(freeze="random", seed=7)
    counts = [sum(unit in one for one in sets) for unit in UNITS]
    assert all(160 <= count <= 240 for count in counts), counts  # 200, standard deviation 10


def test_a_control_is_one_run_however_rankings_would_be_made():
    plain, other = ({"freeze": "first"}, {"freeze": "first", "mask_lr": 3.0, "milestones": [0.5], "ranking": "x.json"})
    assert config.identity_of(ILA(**plain)) == config.identity_of(ILA(**other))
    assert config.identity_of(ILA(**plain)) != config.identity_of(ILA(**plain, rank=3))
    assert ILA(**other).rankings() is None
    assert isinstance(ILA(freeze="most").rankings().run, ILARanking)


def chosen(found: dict | None = None, shape: Shape = SHAPE, **settings: object) -> list[str]:
    method = Static(**{"seed": 0, **settings})
    method.check(shape)
    state = method.begin(shape, [] if found is None else [found])
    return sorted(method.plan(0, Context(shape, 0, None, None, state)).units)


BLOCKS = {"ranking": {"scores": {"layers.0": 0.1, "layers.1": 4.0, "layers.2": 0.3, "layers.3": 2.0}}}


@pytest.mark.parametrize(
    ("found", "settings", "expected"),
    [
        (BLOCKS, {"select": "most", "num_units": 2, "ranking": "file"}, ["layers.1", "layers.3"]),
        (BLOCKS, {"select": "least", "num_units": 1, "ranking": "file"}, ["layers.0"]),
        (ONE, {"select": "most", "num_units": 1, "ranking": "file", "unit": "module"}, ["layers.3.up"]),
        (None, {"select": "first", "num_units": 1}, ["layers.0"]),
        (None, {"select": "last", "num_units": 3, "unit": "module"}, ["layers.2.up", "layers.3.q", "layers.3.up"]),
        (None, {"select": "last", "num_units": 1, "unit": "module", "base": "lora", "targets": ["q"]}, ["layers.3.q"]),
    ],
)
def test_chosen_sets_are_those_worked_out_by_hand(found, settings, expected):
    assert chosen(found, **settings) == expected


def test_adapters_are_in_the_chosen_blocks_and_nowhere_else():
    """The helper gives block i the score 5 i mod 7: 0, 5, 3, 1."""
    words = ("method=static", "method.base=lora", "method.rank=2", "method.select=most", "method.num_units=2")
    run = composed(*words, "method.ranking=file.json", "engine=torch", "method.targets=[q_proj,up_proj]")
    found = {".".join(name.split(".")[4:7]) for name in engine_for(run).among}
    assert found == {"1.self_attn.q_proj", "1.mlp.up_proj", "2.self_attn.q_proj", "2.mlp.up_proj"}


MISTAKES = {
    "no count": ({"select": "random"}, "num_units"),
    "units and a choice": ({"select": "random", "num_units": 1, "units": ["layers.0"]}, "leave out method.units"),
    "no ranking": ({"select": "most", "num_units": 1}, "needs one ranking"),
    "two rankings": (
        {"select": "most", "num_units": 1, "ranking": "x", "unit": "module", "ranking_run": ILARanking()},
        "needs one ranking",
    ),
    "no choice": ({"units": ["layers.0"], "ranking": "x"}, "set method.select to one of"),
    "a run that ranks nothing": (
        {"select": "most", "num_units": 1, "ranking_run": Static(units=["layers.0"])},
        "makes no",
    ),
    "modules for blocks": ({"select": "most", "num_units": 1, "ranking_run": ILARanking()}, "ranks every module"),
    "other targets": (
        {"select": "most", "num_units": 1, "unit": "module", "ranking_run": ILARanking(targets=["q"])},
        "make them the same",
    ),
    "too many": ({"select": "random", "num_units": 5}, r"\[1, 4\]"),
    "parts over adapters": ({"units": ["layers.0"], "always": ["norm"], "base": "lora"}, "only adapters train"),
    "adapters' keys without": ({"units": ["layers.0"], "rank": 3}, "go with method.base=lora"),
    "nothing to adapt": ({"units": ["layers.0.up"], "base": "lora", "targets": ["q"]}, "has no module among"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_cannot_be_chosen_is_said(case):
    settings, text = MISTAKES[case]
    with pytest.raises(UserError, match=text):
        chosen(**settings)


def test_scores_of_other_units_are_refused():
    with pytest.raises(UserError, match=r"scores 8 units \(layers.0.q, ...\) that are not the 4 units"):
        chosen(ONE, select="most", num_units=1, ranking="file")
    with pytest.raises(UserError, match="holds no `scores`"):
        frozen({"losses": []})
