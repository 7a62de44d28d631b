"""Claims: each kind of test on numbers worked out by hand, and the verdicts drawn from them."""

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from layerfit.claims import judge, kinds
from layerfit.claims.cases import Case, Missing
from layerfit.claims.sources import Printed, Records
from layerfit.errors import UserError
from layerfit.report.cells import Store
from layerfit.report.matrix import Matrix
from layerfit.report.stats import Spread
from tests.helpers.report_fakes import small

SLIDES = Path(__file__).resolve().parents[3] / "shared" / "papers" / "slides.txt"
needs_slides = pytest.mark.skipif(not SLIDES.is_file(), reason=f"no slides at {SLIDES}")
GROUPS = {"A": {"rows": {"One": [], "Two": []}}, "B": {"rows": {"One": [], "Two": []}}}


def printed(numbers, heads=("X", "Y"), **sections):
    """A table with these published numbers: row -> one for every head."""
    columns = {head: f"nano_{head.lower()}/acc" for head in heads}
    published = {"source": "made up", "columns": list(heads), "rows": numbers}
    made = small(rows=GROUPS, columns=sections.pop("columns", columns), published=published, **sections)
    return Printed(made, [], Store({}, {}), {})


NUMBERS = {
    "A One": ["61.0", "40.0"],
    "A Two": ["60.0", "41.5"],
    "B One": ["2.0 ± 0.3", "5.0"],
    "B Two": ["2.0 ± 0.4", "5.2"],
}
PAIR = {"pairs": [["One", "Two"]]}


def distances(found):
    return [round(one.distance, 6) for one in found]


def test_better_is_first_minus_second_inside_each_group():
    found = kinds.better(printed(NUMBERS), PAIR)
    assert [(one.name, one.text()) for one in found] == [
        ("A: One - Two, X", "+1.00 points"),
        ("A: One - Two, Y", "-1.50 points"),
        ("B: One - Two, X", "+0.00 points"),
        ("B: One - Two, Y", "-0.20 points"),
    ]
    assert distances(found) == [1.0, -1.5, 0.0, -0.2]
    assert found[2].plus_minus == pytest.approx(0.7)
    assert judge.judge_published(found, "any").word == judge.SUPPORTED


def test_where_lower_is_better_the_smaller_number_counts_for_the_sentence():
    columns = {
        "X": {"score": "measured/step_seconds", "unit": "s"},
        "Y": {"score": "measured/tokens_per_s", "unit": "plain"},
    }
    assert distances(kinds.better(printed(NUMBERS, columns=columns), PAIR)) == [-1.0, -1.5, 0.0, -0.2]
    assert distances(kinds.not_worse(printed(NUMBERS, columns=columns), {**PAIR, "margin": 1})) == [0.0, -0.5, 1.0, 0.8]


def test_margins_are_of_the_unit_and_on_the_right_side():
    assert distances(kinds.not_worse(printed(NUMBERS), {**PAIR, "margin": 1.0})) == [2.0, -0.5, 1.0, 0.8]
    assert distances(kinds.equivalent(printed(NUMBERS), {**PAIR, "margin": {"percent": 1.2}})) == [0.2, -0.3, 1.2, 1.0]
    assert distances(kinds.differ(printed(NUMBERS), PAIR)) == [1.0, 1.5, 0.0, 0.2]
    with pytest.raises(UserError, match="column X is in percent"):
        kinds.equivalent(printed(NUMBERS), {**PAIR, "margin": {"plain": 1.0}})


def test_an_interaction_is_a_difference_of_differences():
    found = kinds.interaction(printed(NUMBERS), {**PAIR, "more": ["X"], "less": ["Y"]})
    assert distances(found) == [2.5, 0.2]


def test_a_spread_is_over_the_columns_that_hold_one_seed_each():
    columns = {head: {"score": "m/s", "unit": "plain", "seed": i} for i, head in enumerate(("S1", "S2", "S3"))}
    source = printed({"A One": ["2.57", "2.55", "2.60"]}, ("S1", "S2", "S3"), columns=columns)
    (found,) = kinds.spread(source, {"rows": ["A One"], "margin": 0.1})
    assert found.value == pytest.approx(np.std([2.57, 2.55, 2.60], ddof=1))
    assert distances([found]) == [round(0.1 - found.value, 6)]


def test_a_number_and_a_ratio_against_a_threshold():
    source = printed({"A One": ["29.0", "1"], "A Two": ["10.0", "1"]})
    (ratio,) = kinds.at_least(
        source,
        {"ratio": [["One", "Two"]], "columns": ["X"], "threshold": 2.9},
    )[:1]
    assert (ratio.value, ratio.distance) == (pytest.approx(2.9), pytest.approx(0, abs=1e-9))
    (level,) = kinds.at_most(source, {"rows": ["A One"], "columns": ["X"], "threshold": 24})
    assert (level.value, level.distance, level.text()) == (29.0, -5.0, "29.00 points")


def matrix_source(*by_seed):
    def view(spec_, cells, store, options):
        return [next(made)]

    made = iter([replace(by_seed[0], values=values) for values in (one.values for one in by_seed)])
    made_spec = small(views=[{"kind": "v"}], seeds=list(range(len(by_seed))))
    return Records(made_spec, [], Store({}, {}), {"v": view})


def curve(*values):
    return Matrix("Norms", "what", "layer", "norm", ("LoRA",), ("embedding", "0", "1", "head"), (values,), "lines")


def test_cells_of_a_view_over_seeds():
    options = {"view": "v", "columns": ["embedding", "head"], "over": ["[0-9]*"], "by": "max", "threshold": 2.0}
    found = kinds.at_least(matrix_source(curve(8.0, 1.0, 2.0, 1.0), curve(18.0, 1.0, 2.0, 1.0)), options)
    assert [one.name for one in found] == ["LoRA, embedding / max of [0-9]*", "LoRA, head / max of [0-9]*"]
    assert found[0].value == pytest.approx(6.0)  # the geometric mean of 4 and 9
    assert found[0].distance == pytest.approx(log(3.0))
    assert found[1].distance == pytest.approx(log(0.25))
    assert kinds.at_least(matrix_source(curve(8.0, 1.0, 2.0, 1.0)), options)[0].p is None  # one seed
    minus = {"view": "v", "columns": ["0"], "minus": ["*"], "by": "mean", "threshold": 0}
    (found,) = kinds.at_least(matrix_source(curve(8.0, 6.0, 2.0, 2.0)), minus)
    assert found.value == 2.0  # 6 - (8 + 2 + 2) / 3


def made(*distances, p=None):
    return [Case(f"case {i}", d, d, (d - 1, d + 1), p[i] if p else None, spread=Spread(((0.25, 9),)))
            for i, d in enumerate(distances)]  # fmt: skip


@pytest.mark.parametrize(
    ("quantifier", "ps", "word"),
    [
        ("all", (0.001, 0.001, 0.001, 0.001), judge.CONTRADICTED),
        ("most", (0.001, 0.001, 0.001, 0.001), judge.SUPPORTED),
        ("any", (0.5, 0.5, 0.5, 0.001), judge.UNDECIDED),
        ("all", (0.001, 0.001, 0.001, 0.5), judge.UNDECIDED),
        ("most", (0.001, 0.001, 0.5, 0.001), judge.UNDECIDED),  # two of four are not most
        ("any", (0.001, 0.5, 0.5, 0.001), judge.SUPPORTED),
    ],
)
def test_a_verdict_counts_what_is_shown(quantifier, ps, word):
    assert judge.judge(made(2.0, 1.0, 1.0, -1.0, p=ps), quantifier).word == word  # the last is on the other side


def test_a_wrong_sign_everywhere_contradicts_every_quantifier():
    for quantifier in judge.QUANTIFIERS:
        assert judge.judge(made(-2.0, -1.0, p=(0.001, 0.001)), quantifier).word == judge.CONTRADICTED
        assert judge.judge_published(made(-2.0, -1.0), quantifier).word == judge.CONTRADICTED


def test_holm_over_the_cases_of_a_sentence():
    # 0.02 alone is shown; of three, Holm asks for 0.0167 first, so none is.
    assert judge.judge(made(1.0, p=(0.02,)), "any").word == judge.SUPPORTED
    assert judge.judge(made(1.0, 1.0, 1.0, p=(0.02, 0.3, 0.4)), "any").word == judge.UNDECIDED
    assert judge.judge(made(1.0, 1.0, 1.0, p=(0.016, 0.024, 0.04)), "all").word == judge.SUPPORTED


def test_at_low_power_it_says_what_would_have_been_found():
    verdict = judge.judge(made(0.1, p=(0.8,)), "all")
    # Half a standard error of 0.5, Student's t with 9 degrees of freedom: 0.5 (2.262 + 0.883).
    assert verdict.word == judge.UNDECIDED
    assert "found with 80% power: 1.57 or more" in verdict.detail


def test_published_reversals_without_a_test_make_it_mixed():
    assert judge.judge_published(made(1.0, 1.0, -0.3), "all").word == judge.MIXED
    assert judge.judge_published(made(1.0, 1.0, -0.3), "most").word == judge.SUPPORTED
    assert judge.judge_published(made(1.0, -0.3), "most").word == judge.MIXED
    assert judge.judge_published(made(0.0, -0.3, -0.2), "most").word == judge.CONTRADICTED
    assert judge.judge_published([Missing("X", "not printed")], "all").word == judge.NO_NUMBERS


def test_what_cannot_be_asked_is_no_verdict():
    verdict = judge.judge([Missing("MT-Bench", "no judge"), Missing("Vicuna", "no judge")], "all")
    assert (verdict.word, verdict.detail) == (judge.NOT_ASKED, "no judge (MT-Bench; Vicuna)")
    untested = [replace(one, reason="one run") for one in made(3.0)]
    assert judge.judge(untested, "all").word == judge.UNDECIDED
    assert "no test: one run" in judge.judge(untested, "all").detail
