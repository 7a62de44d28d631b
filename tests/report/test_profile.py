"""Groups of rows, rows and columns without numbers, and the embedded profile of a table."""

import pytest

from layerfit.config import composer
from layerfit.errors import UserError
from layerfit.records.record import read, write
from layerfit.report import build, cells, render
from layerfit.report.matrix import Matrix
from layerfit.report.spec import parse
from layerfit.report.values import score_of
from tests.helpers.report_fakes import KEYS, SPEC, fill, record, small

ROWS = {"LoRA": ["method=lora", "method.rank=4"], "ILA": ["method=ila", "method.rank=4"]}
GROUPS = {
    "Small": {"base": ["training.max_steps=20"], "rows": ROWS},
    "Large": {"base": ["training.max_steps=30"], "rows": ROWS},
    "Elsewhere": None,
}
SHARES = {"Small LoRA": 0.3, "Small ILA": 0.4, "Large LoRA": 0.8, "Large ILA": 0.6}
PROFILED = {
    **SPEC,
    "base": ["model=llama2_7b", "dataset=alpaca_gpt4", "eval=lisa_suite", "training.max_steps=20"],
    "columns": {"MMLU": "mmlu/acc", "MT-Bench": {"score": "mt_bench/rating", "unit": "plain"}},
    "footnotes": ["of the paper"],
    "nano": {
        "note": "small",
        "seeds": [4],
        "base": ["training.max_steps=8"],
        "stands_for": {"model=llama2_7b": ["model=nano"], "dataset=alpaca_gpt4": ["dataset=nano"],
                       "eval=lisa_suite": ["eval=nano"], "method.rank=4": ["method.rank=2", "method.alpha=4"]},
        "columns": {"MMLU": KEYS[0], "MT-Bench": {"hole": "Judged."}},
        "footnotes": ["of the profile"],
    },
}  # fmt: skip


def grouped(folder, **sections):
    """A table of two groups with all its records."""
    spec = small(rows=GROUPS, results=str(folder), columns={"Facts": KEYS[0]}, **sections)
    with composer():
        made = cells.cells(spec)
    fill(made, folder, {row: {KEYS[0]: share} for row, share in SHARES.items()})
    return build.LoadedTable(spec, None, made, cells.load(made, folder))


def test_rows_are_compared_inside_their_group(tmp_path):
    data = build.assemble(grouped(tmp_path))
    assert [r.label for r in data.rows] == [*SHARES, "Elsewhere"]
    assert [r.short for r in data.rows] == ["LoRA", "ILA", "LoRA", "ILA", "Elsewhere"]
    assert [r.entries[0].best for r in data.rows] == [False, True, True, False, False]
    assert data.columns[0].comparisons == 2  # one a group


def test_other_items_in_another_group_are_no_mixture_and_in_one_group_they_are(tmp_path):
    table = grouped(tmp_path)
    other = build.assemble(table)
    assert not other.problems

    def asked_elsewhere(row):
        for cell in (c for c in table.cells if c.row == row):
            old = table.store.records[cell.run_id]
            old.result.scores[0] = old.result.scores[0].__class__(**{**vars(old.result.scores[0]), "docs": "others"})

    asked_elsewhere("Large LoRA")
    assert any("mixed items asked" in text for text in build.assemble(table).problems)
    asked_elsewhere("Large ILA")
    data = build.assemble(table)
    assert not data.problems
    assert [r.entries[0].best for r in data.rows] == [False, True, True, False, False]


def test_a_row_without_a_run_is_printed_with_its_reason_and_its_published_number(tmp_path):
    published = {"source": "A paper", "columns": ["Facts"], "rows": {"Elsewhere": [77.0]}}
    text = render.markdown(build.assemble(grouped(tmp_path, published=published)))
    assert "| **Large** |" in text
    assert "| Elsewhere | - | 77.0 |" in text
    assert "- Elsewhere: published only." in text


def test_a_run_that_did_not_fit_is_a_hole_with_its_reason_and_no_refusal(tmp_path):
    table = grouped(tmp_path)
    cell = table.cells[0]
    made = record(cell.run, {})
    result = made.result.__class__(**{**vars(made.result), "status": "oom", "message": "24.1 GiB of 24.0"})
    table.store.records[cell.run_id] = made.__class__(**{**vars(made), "result": result})
    data = build.assemble(table)
    assert not data.problems
    assert any("Small LoRA, seed 0: oom: 24.1 GiB of 24.0" in note for note in data.footnotes)
    assert "(2/3)" in render.markdown(data)


def test_the_profile_has_the_rows_and_columns_of_its_table_and_says_what_stands_for_what():
    table, nano = (parse(name, PROFILED, "conf/table/t.yaml") for name in ("t", "t.nano"))
    assert [r.label for r in nano.rows] == [r.label for r in table.rows]
    assert [c.label for c in nano.columns] == [c.label for c in table.columns]
    assert nano.base[:3] == ("model=nano", "dataset=nano", "eval=nano")
    assert nano.base[-1] == "training.max_steps=8"
    assert nano.rows[1].overrides == ("method=lora", "method.rank=2", "method.alpha=4")
    assert (nano.seeds, nano.columns[1].hole, nano.file) == ((4,), "Judged.", "conf/table/t.yaml")
    assert nano.footnotes == ("of the paper", "of the profile")
    assert table.rows[1].overrides == ("method=lora", "method.rank=4")
    with composer():
        assert {c.run.training.max_steps for c in cells.cells(nano)} == {8}


@pytest.mark.parametrize(
    ("section", "named"),
    [
        (None, "no section `nano`"),
        ({"stands_for": {"model=llama": ["model=nano"]}}, "'model=llama', which no row or base has"),
        ({"columns": {"MMLUU": "a/b"}}, "'MMLUU'; columns: MMLU, MT-Bench"),
        ({"rows": {}}, "unknown key 'rows'"),
    ],
)
def test_a_mistake_in_a_profile_is_one_line(section, named):
    with pytest.raises(UserError, match=named):
        parse("t.nano", {**PROFILED, "nano": section}, "conf/table/t.yaml")


def test_seeds_can_vary_the_draw_alone():
    with composer():
        made = cells.cells(small(rows={"A": ["method=lora"]}, vary="method.seed"))
    assert [(c.run.seed, c.run.dataset.seed, c.run.method.seed) for c in made] == [(0, 0, s) for s in (0, 1, 2)]
    assert made[1].overrides[-1] == "method.seed=1"


def test_a_column_can_be_one_seed(tmp_path):
    columns = {"All": KEYS[1], "First": {"score": KEYS[0], "seed": 0}, "Last": {"score": KEYS[0], "seed": 2}}
    spec = small(rows=ROWS, results=str(tmp_path), columns=columns)
    with composer():
        made = cells.cells(spec)
    fill(made, tmp_path, {row: dict.fromkeys(KEYS, 0.5) for row in ROWS})
    data = build.assemble(build.LoadedTable(spec, None, made, cells.load(made, tmp_path)))
    ids = [cell.run_id for cell in made if cell.row == "LoRA"]
    expected = [score_of(read(tmp_path, ids[seed]), KEYS[0]).value for seed in (0, 2)]
    assert [data.rows[0].entries[i].mean for i in (1, 2)] == expected
    assert not data.problems


def test_numbers_that_are_no_scores_have_keys(tmp_path):
    with composer():
        run = cells.cells(small())[1].run
    made = record(run, {KEYS[0]: [1.0, 0.0]})
    made.result.findings["log_odds_ratio"] = 0.7
    made.result.validation.append((20, 2.5))
    write(made, {}, tmp_path)
    keys = ("measured/peak_bytes", "validation/loss", "findings/log_odds_ratio", "*_facts/acc", "measured/tokens_per_s")
    assert [score_of(made, key).value for key in keys] == [48 * 2**20, 2.5, 0.7, 0.5, 5200.0]
    assert score_of(made, "findings/nothing") is None
    assert score_of(made, "measured/forward_seconds") is None


def test_a_matrix_is_printed_under_the_table_published_numbers_below_ours(tmp_path):
    from dataclasses import replace

    matrix = Matrix(
        "Overlap", "data", "data", "Jaccard", ("LIMA", "Robots"), ("LIMA", "Robots"),
        ((None, 0.5), (0.914, None)), "heatmap", published=((None, None), (0.91, None)), notes=("chance 0.60",),
    )  # fmt: skip
    data = replace(build.assemble(grouped(tmp_path)), matrices=(matrix,))
    text = render.markdown(data)
    assert "## Overlap" in text
    assert "| LIMA | - | 0.50 |" in text
    assert "| Robots | 0.91 | - |\n| Robots, published | 0.91 | - |" in text
    assert "- chance 0.60" in text
    assert r"\par\medskip Overlap\par" in render.latex(data)


def test_a_row_in_a_group_takes_the_tuned_values_of_its_label_or_of_what_is_said():
    from layerfit.report.spec import Tuned

    chosen = {"LoRA": ("optim.lr=0.5",), "Other": ("optim.lr=0.25",), "Large ILA": ("optim.lr=0.125",)}
    spec = small(rows=GROUPS, tuned="t", tuned_as={"Small ILA": "Other"})
    with composer():
        made = cells.row_cells(spec, Tuned("t", 1, (100,), chosen, {}, {}))
    rates = {cell.row: cell.run.optim.lr for cell in made}
    assert rates == {"Small LoRA": 0.5, "Small ILA": 0.25, "Large LoRA": 0.5, "Large ILA": 0.125}


def test_the_mean_of_several_tasks_is_unweighted_and_has_items_whose_mean_it_is():
    from layerfit.report.values import items_of

    items = {"a_eight_1/acc": [1.0, 0.0, 1.0, 1.0], "a_eight_2/acc": [0.0, 1.0], "a_other/acc": [0.0]}
    with composer():
        made = record(cells.cells(small())[1].run, items)
    key = "mean:*_eight_?/acc"
    score, outcomes = score_of(made, key), items_of(made, items, key)
    assert (score.value, score.num_items) == (0.625, 6)  # (0.75 + 0.5) / 2, not 4 of 6
    assert sum(outcomes) / len(outcomes) == pytest.approx(0.625)
    assert items_of(made, {"a_eight_1/acc": [1.0]}, key) is None
    assert items_of(made, items, "*_other/acc") == [0.0]
