"""Matrices under tables: each from findings made up so that the answer is known by hand."""

import dataclasses
import math

import pytest

from layerfit.config import composer
from layerfit.errors import UserError
from layerfit.report import cells, figures, views
from layerfit.report.cells import Store
from layerfit.report.spec import Published
from tests.helpers.report_fakes import record, small

UNITS = [f"layers.{i}.{m}" for i in range(16) for m in ("self_attn.q_proj", "mlp.up_proj")]


def table_of(rows, view, *, seeds=(0,), columns=None):
    """A table with one view, and its cells."""
    extra = {"columns": columns} if columns else {}
    spec = small(rows=rows, seeds=list(seeds), views=[view], **extra)
    with composer():
        return spec, cells.cells(spec)


def shown(spec, made, findings, **result):
    """The matrices of a table whose runs found something. findings: of (row, seed); without, no record.

    result: fields of the record's result, or `measured`, the same for all.
    """
    records = {}
    for cell in made:
        found = findings.get((cell.row, cell.seed))
        if found is None:
            continue
        found = dict(found)
        old = record(cell.run, found.pop("items", {}))
        measured = dataclasses.replace(old.measured, **found.pop("measured", {}))
        content = dataclasses.replace(old.result, findings=found, **result)
        records[cell.run_id] = dataclasses.replace(old, result=content, measured=measured)
    return views.compute(spec, made, Store(records, {}))


def ranking(low):
    """A ranking in which these units are the least important."""
    return {"ranking": {"scores": {unit: float(unit not in low) + 1e-3 * i for i, unit in enumerate(UNITS)}}}


RANKED = {"A": ["method=ila_ranking"], "B": ["method=ila_ranking", "dataset.seed=7"]}


def test_jaccard_by_hand():
    spec, made = table_of(RANKED, {"kind": "jaccard", "published": {"": {"B": {"A": 0.9}}}}, seeds=(0, 1))
    first, second = UNITS[:8], UNITS[4:12]  # 8 of 32 left out each: 4 shared, kept 24 each, 20 shared of 28
    findings = {
        ("A", 0): ranking(first),
        ("A", 1): ranking(first),
        ("B", 0): ranking(second),
        ("B", 1): ranking(second),
    }
    square, pairs, rest = shown(spec, made, findings)
    assert square.rows == square.columns == ("A", "B")
    assert square.values == ((1.0, pytest.approx(20 / 28)), (pytest.approx(20 / 28), 1.0))
    assert square.published == ((None, None), (0.9, None))
    line = dict(zip(pairs.columns, pairs.values[0], strict=True))
    assert line["kept 75%"] == pytest.approx(20 / 28)
    assert dict(zip(rest.columns, rest.values[0], strict=True))["frozen"] == pytest.approx(4 / 12)
    assert line["same data, other seed"] == 1.0
    assert line["chance"] == pytest.approx(0.602, abs=0.002)  # 32 units at 75%, by 4,000 simulated draws
    assert pairs.published[0][0] == 0.9
    assert "Chance: 0.60" in " ".join(square.notes)


def test_rankings_of_module_types_alone_are_not_above_their_own_chance():
    low = [u for u in UNITS if u.endswith("q_proj")]
    spec, made = table_of(RANKED, {"kind": "jaccard"})
    halves = {("A", 0): ranking(low[:8]), ("B", 0): ranking(low[4:12])}
    _, pairs, _ = shown(spec, made, halves)
    line = dict(zip(pairs.columns, pairs.values[0], strict=True))
    # 16 of each type; 8 q left out of both, 4 of them shared: what drawing 8 of 16 twice gives on average.
    assert line["kept 75%"] == pytest.approx(20 / 28)
    assert line["chance within types"] == pytest.approx(20 / 28, abs=0.01)
    assert line["chance"] < line["chance within types"] - 0.05
    assert line["same data, other seed"] is None


def test_pairs_are_of_different_seeds():
    """The same seed starts from the same adapters: on the diagonal no pair shares it, so neither does one beside it."""
    spec, made = table_of(RANKED, {"kind": "jaccard"}, seeds=(0, 1))
    one, two = UNITS[:8], UNITS[8:16]
    findings = {("A", 0): ranking(one), ("A", 1): ranking(two), ("B", 0): ranking(one), ("B", 1): ranking(two)}
    square, *_ = shown(spec, made, findings)
    assert square.values == ((0.5, 0.5), (0.5, 0.5))


def test_milestones_by_hand():
    spec, made = table_of({"A": ["method=ila_ranking"]}, {"kind": "milestones"})
    up = {unit: float(i) for i, unit in enumerate(UNITS)}
    down = {unit: -score for unit, score in up.items()}
    milestones = {"0.25": {"scores": down, "split_half": 0.1, "other_data": 0.2}, "0.01": {"scores": up}}
    findings = {"milestones": milestones, "ranking": {"scores": up, "split_half": 0.9}}
    *maps, spearman, sets, trust = shown(spec, made, {("A", 0): findings})
    assert [m.title.partition("after ")[2] for m in maps] == [f"{at} of the training" for at in ("1%", "25%", "100%")]
    assert maps[0].rows == ("q_proj", "up_proj")  # the model's order, not the alphabet's, and not the file's
    assert maps[0].values[0][0] == pytest.approx(0.5 / 32)
    assert maps[0].values[1][15] == pytest.approx(31.5 / 32)
    assert spearman.values == ((1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, -1.0, 1.0))
    assert sets.values[0][1] == pytest.approx(16 / 32)  # 8 lowest of one are the 8 highest of the other
    assert trust.values == ((None, 0.1, 0.9), (None, 0.2, None), (None, None, None))


def test_importance_says_whether_drawing_left_uniform():
    rows = {"LoRA": ["method=lora"], "IST": ["method=ist"]}
    spec, made = table_of(rows, {"kind": "importance"}, seeds=(0, 1))
    history = [[0, [0.0, 0.0]], [10, [1.0, -1.0]]]
    findings = {"importance": [1.0, -1.0], "importance_history": history, "log_odds_ratio": 2.0}
    raster, final = shown(
        spec, made, {("LoRA", 0): {}, ("LoRA", 1): {}, ("IST", 0): {**findings, "uniform_in_effect": False}}
    )
    assert (raster.rows, raster.columns, raster.printed) == (("0", "1"), ("0", "10"), False)
    assert raster.values == ((0.0, 1.0), (0.0, -1.0))
    assert f"{math.exp(2):.3g} (left uniform)" in raster.notes[0]
    assert final.rows == ("IST",)
    assert final.notes == ("Not known (no record): IST, seed 1.",)


def test_norms_show_the_adapters_initialisation():
    spec, made = table_of({"FT": ["method=full"], "LoRA": ["method=lora"]}, {"kind": "norms"})
    units = ["embedding", "layers.0", "norm", "head"]
    full = {"units": units, "initial": [2.0, 3, 1, 2], "mean": [2.1, 3.1, 1, 2.2], "update": [0.5, 1, 0, 1]}
    none = {"adapter_initial": None, "adapter_mean": None, "adapter_update": None}
    adapters = {"adapter_initial": [724.0, 17.28, None, 6.5], "adapter_mean": [724.0, 17.28, None, 6.825]}
    lora = {**full, **adapters, "update": [0.0, 0, 0, 0], "adapter_update": [0.1, 0.2, None, 0.3]}
    weights, update = shown(spec, made, {("FT", 0): {"norms": full | none}, ("LoRA", 0): {"norms": lora}})
    assert weights.rows == ("FT", "LoRA, adapters", "LoRA, adapters before training", "weights before training")
    assert weights.columns == ("embedding", "0", "norm", "head")
    assert weights.values[2] == (724.0, 17.28, None, 6.5)
    assert weights.log
    assert "1.00 to 1.05 times" in weights.notes[1]
    assert dict(zip(update.rows, update.values, strict=True)) == {
        "FT": (0.5, 1, 0, 1),
        "LoRA, adapters": (0.1, 0.2, None, 0.3),
    }


def test_greedy_removal():
    spec, made = table_of({"A": ["method=lora"]}, {"kind": "greedy"}, seeds=(0, 1))
    runs = {
        ("A", 0): {"removal": {"order": ["layers.2", "layers.0", "layers.1"], "losses": [2.0, 1.8, 2.0, 3.0]}},
        ("A", 1): {"removal": {"order": ["layers.2", "layers.1", "layers.0"], "losses": [2.0, 1.9, 2.2, 3.2]}},
    }
    losses, order = shown(spec, made, runs)
    assert losses.columns == ("0", "1", "2", "3")
    assert losses.values[0] == pytest.approx((2.0, 1.85, 2.1, 3.1))
    assert "lowest at 1 removed" in losses.notes[1]
    assert "1 of 3 can go" in losses.notes[1]
    assert order.values == ((2.5, 2.5, 1.0),)


FACTS = {"Facts": "nano_facts/acc"}


def items(share):
    return {"items": {"nano_facts/acc": [1.0] * round(10 * share) + [0.0] * round(10 - 10 * share)}}


def test_subset_reads_the_number_of_layers_off_the_labels():
    names = ("Most important 2", "Most important 8", "Random 2, draw 1", "Random 2, draw 2", "All layers")
    rows = {name: ["method=lora", f"method.rank={i + 2}"] for i, name in enumerate(names)}
    spec, made = table_of(rows, {"kind": "subset"}, columns=FACTS)
    shares = dict(zip(names, (0.5, 0.8, 0.2, 0.4, 0.9), strict=True))
    (matrix,) = shown(spec, made, {(name, 0): items(share) for name, share in shares.items()})
    assert (matrix.rows, matrix.columns) == (("Most important", "Random", "All layers"), ("2", "8"))
    assert matrix.values == tuple(map(pytest.approx, ((50, 80), (30, None), (90, 90))))
    assert matrix.notes == ("Random: mean over draws.", "All layers: the same for every number of layers.")


def test_subset_of_shares_of_the_depth_and_of_a_loss():
    rows = {name: ["method=lora", f"method.rank={i + 2}"] for i, name in enumerate(("Random 50%", "Random 25%"))}
    spec, made = table_of(rows, {"kind": "subset"}, columns={"Loss": {"score": "validation/loss", "unit": "plain"}})
    (matrix,) = shown(spec, made, {(row, 0): {} for row in rows}, validation=[(10, 2.0), (20, 1.2345)])
    assert (matrix.columns, matrix.values) == (("25%", "50%"), ((1.2345, 1.2345),))
    assert (matrix.decimals, matrix.column_name) == (3, "share of layers trained")
    assert "Loss: lower is better." in matrix.notes


def test_location_is_above_the_model_as_it_was():
    rows = {
        "Vanilla": ["method=vanilla"],
        "a": ["method=static", "method.units=[layers.1.mlp.up_proj]"],
        "b": ["method=static", "method.units=[layers.0.self_attn.q_proj]"],
        "c": ["method=static", "method.units=[layers.1]"],
    }
    spec, made = table_of(rows, {"kind": "location"}, columns=FACTS)
    found = {("Vanilla", None): items(0.3), ("a", 0): items(0.7), ("c", 0): items(0.2)}
    (matrix,) = shown(spec, made, found)
    assert (matrix.rows, matrix.columns) == (("whole block", "q_proj", "up_proj"), ("0", "1"))
    assert matrix.values == tuple(map(pytest.approx, ((None, -10), (None, None), (None, 40))))
    assert "Not known (no record): b, seed 0." in matrix.notes
    assert "Best layers.1.mlp.up_proj (+40.0), worst layers.1 (-10.0)." in matrix.notes


def test_memory_and_speed_by_hand():
    rows = {"FT": ["method=full"], "LoRA": ["method=lora"]}
    gib = 2**30
    memory = {"weights": 4 * gib, "gradients": 4 * gib, "optimizer": 8 * gib, "activations": gib}
    spec, made = table_of(rows, {"kind": "memory", "published": {"FT": [13.2, 14, 26, 7]}})
    stack, grid = shown(
        spec, made, {("FT", 0): {"measured": {"peak_memory_bytes": memory}}, ("LoRA", 0): {"measured": {}}}
    )
    assert stack.value_name == "GiB"
    assert stack.values == ((4, 4, 8, 1), (None,) * 4)
    assert stack.published == ((13.2, 14, 26, 7), (None,) * 4)
    assert grid.values == ((17.0,), (48 / 1024,))  # counted; and what the allocator says
    assert "Not known (no account of its memory in its record): LoRA, seed 0." in stack.notes
    assert "activations at the first step" in stack.notes[0]
    of_all = {"measured": {"peak_memory_bytes": memory, "activations_over": "every step"}}
    anew = shown(spec, made, {("FT", 0): of_all, ("LoRA", 0): {"measured": {}}})[0]
    assert "activations at their largest of all steps" in anew.notes[0]


def test_published_peaks_come_from_the_tables_column():
    rows = {"FT": ["method=full"], "LoRA": ["method=lora"]}
    column = {"Peak": {"score": "measured/peak_bytes", "unit": "gb"}}
    spec, made = table_of(rows, {"kind": "memory"}, columns=column)
    cell = Published("59", 59.0, None, False, "a paper")
    spec = dataclasses.replace(spec, published={"FT": {"Peak": cell}})
    found = {("FT", 0): {"measured": {"peak_memory_bytes": {"allocated": 60 * 10**9}}}}
    grid = shown(spec, made, found)[-1]
    assert (grid.value_name, grid.published) == ("GB", ((59.0,), (None,)))
    assert grid.values == (pytest.approx((60.0,)), (None,))
    assert shown(dataclasses.replace(spec, name="small.nano"), made, found)[-1].published is None


def test_speed_by_hand():
    spec, made = table_of({"FT": ["method=full"], "LoRA": ["method=lora"]}, {"kind": "speed", "against": "FT"})
    times = {"forward_seconds": 0.010, "backward_seconds": 0.020, "update_seconds": 0.010}
    half = {name: seconds / 2 for name, seconds in times.items()}
    found = {("FT", 0): {"measured": times}, ("LoRA", 0): {"measured": half}}
    stack, ratio = shown(spec, made, found, losses=[1.0] * 20)
    assert stack.values == (pytest.approx((10, 20, 10)), pytest.approx((5, 10, 5)))
    assert "4,000." in stack.notes[1]  # 80,000 tokens in 20 steps
    assert ratio.values == ((1.0,), (2.0,))


def test_a_view_of_a_table_without_records_says_so_and_is_not_drawn():
    kinds = {"jaccard": {}, "milestones": {}, "importance": {}, "norms": {}, "greedy": {}, "memory": {}, "location": {}}
    kinds |= {"speed": {"against": "A"}, "subset": {"pattern": "(?P<arm>A)(?P<k>1?)"}}
    spec, made = table_of({"A": ["method=ila_ranking"]}, {"kind": "jaccard"})
    for kind, options in kinds.items():
        if kind == "subset":
            continue
        spec = dataclasses.replace(spec, views=({"kind": kind, **options},))
        found = views.compute(spec, made, Store({}, {}))
        assert found, kind
        assert all(v is None for m in found for row in m.values for v in row), kind
        notes = " ".join(note for m in found for note in m.notes)
        assert "no record" in notes or kind == "location", (kind, notes)
        assert figures.draw(found) == {}, kind
        for m in found:
            assert len(m.values) == len(m.rows)
            assert all(len(row) == len(m.columns) for row in m.values)


def test_ablation_counts_the_draws_below():
    names = ("ILA", "RL 1", "RL 2", "RL 3", "RL 4")
    rows = {name: ["method=lora", f"method.rank={i + 2}"] for i, name in enumerate(names)}
    view = {"kind": "ablation", "draws": "RL", "subjects": ["ILA"]}
    spec, made = table_of(rows, view, columns=FACTS)
    shares = dict(zip(names, (0.5, 0.4, 0.5, 0.2, 0.8), strict=True))
    (matrix,) = shown(spec, made, {(name, 0): items(share) for name, share in shares.items()})
    assert matrix.values == ((pytest.approx(100 * 2.5 / 4),),)
    assert "1/5 = 0.20" in matrix.notes[0]


@pytest.mark.parametrize(
    ("view", "text"),
    [
        ({"kind": "jaccard", "share": 0.5}, "views.jaccard has no option 'share'; allowed: fraction, published"),
        ({"kind": "jaccard", "fraction": 1}, "views.jaccard.fraction=1 is no share between 0 and 1"),
        ({"kind": "speed", "against": "FT"}, "views.speed.against='FT' is no row; rows: A, B"),
        ({"kind": "ablation"}, "views.ablation needs draws"),
        ({"kind": "subset"}, "no label of a row says a number of layers: 'A'"),
        ({"kind": "subset", "pattern": "(?P<arm>"}, "is no regular expression"),
        ({"kind": "memory", "unit": "bytes"}, "use one of: gib, gb, mib"),
        ({"kind": "pie"}, "pie"),
    ],
)
def test_a_wrong_option_is_named(view, text):
    spec, made = table_of(RANKED, {"kind": "jaccard"})
    with pytest.raises(UserError) as error:
        views.compute(dataclasses.replace(spec, views=(view,)), made, Store({}, {}))
    assert text in str(error.value)
    assert "\n" not in str(error.value)
