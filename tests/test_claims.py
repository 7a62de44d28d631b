"""Claims: each kind of test on numbers worked out by hand, the verdicts, and the sentences word for word."""

import re
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from layerfit.config import composer
from layerfit.errors import UserError
from layerfit.record import write
from layerfit.report import build, compare, spec
from layerfit.report.__main__ import main
from layerfit.report.cells import Store
from layerfit.report.claims import answer, judge, kinds, read, show
from layerfit.report.claims.cases import Case, Missing
from layerfit.report.claims.sources import Printed, Records
from layerfit.report.matrix import Matrix
from layerfit.report.stats import Spread
from tests.report_fakes import KEYS, SHARES, fill, new_project, record, small

SLIDES = Path(__file__).resolve().parents[2] / "shared" / "papers" / "slides.txt"
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


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    made_spec = small(results=str(folder))
    from layerfit.report import cells

    with composer():
        table = cells.cells(made_spec)
        fill(table, folder, SHARES)
        return build.Loaded(made_spec, None, table, cells.load(table, folder))


def test_our_test_is_that_of_the_table(loaded):
    """A comparison with a column's best is in the table too."""
    data = build.assemble(loaded)
    rules = data.columns[1]
    lora = next(row for row in data.rows if row.label == "LoRA").entries[1]
    options = {"pairs": [["ILA", "LoRA"]], "columns": [rules.column.label]}
    (found,) = kinds.better(Records(loaded.spec, loaded.cells, loaded.store, {}), options)
    assert found.value == pytest.approx(100 * lora.against_best.difference)
    assert found.p == pytest.approx(lora.against_best.p)
    low, high = found.interval
    assert low < found.value < high
    assert (high - low) / 2 == pytest.approx(100 * lora.against_best.spread.reach(0.025))


def test_verdicts_from_records(loaded):
    """Made with 0.60 and 0.61 right for facts, 0.45 and 0.60 for rules."""
    data = build.assemble(loaded)

    def verdict(first, second, quantifier="all", **options):
        return answer.judged(
            read.Test("small", "better", quantifier, {"pairs": [[first, second]], **options}), loaded, data
        )

    assert verdict("ILA", "LoRA", columns=["Rules"]).word == judge.SUPPORTED
    assert verdict("LoRA", "ILA", columns=["Rules"]).word == judge.CONTRADICTED
    assert verdict("ILA", "LoRA", columns=["Facts"]).word == judge.UNDECIDED
    # Rules alone is shown at 5%, as one of two columns it is not: its p is 0.03, and Holm asks for 0.025 first.
    assert verdict("ILA", "LoRA", "any").word == judge.UNDECIDED
    assert verdict("ILA", "Vanilla", "any").word == judge.SUPPORTED
    gate = build.table.Gate("untrained model at chance", False, "")
    gated = answer.judged(
        read.Test("small", "better", "any", {"pairs": [["ILA", "LoRA"]]}), loaded, replace(data, gates=(gate,))
    )
    assert (gated.word, "cannot rank methods" in gated.detail) == (judge.UNDECIDED, True)
    refused = answer.judged(
        read.Test("small", "better", "any", {"pairs": [["ILA", "LoRA"]]}),
        loaded,
        replace(data, problems=("dirty tree: LoRA",)),
    )
    assert refused.word == judge.REFUSED


def test_what_has_not_run_is_not_run(loaded):
    empty = replace(loaded, store=Store({}, {}))
    found = answer.judged(
        read.Test("small", "better", "any", {"pairs": [["ILA", "LoRA"]]}), empty, build.assemble(loaded)
    )
    assert (found.word, found.cases) == (judge.NOT_RUN, ())


def series(values, items=None):
    outcomes = np.array(values, dtype=float)[:, None] if items is None else np.array(items, dtype=float)
    return compare.Runs(tuple(range(len(values))), tuple(values), outcomes, "" if items is None else "d", True)


def test_a_ratio_has_the_noise_of_both_sides():
    one = compare.ratio(series([2.0, 8.0]), series([2.0, 2.0]))
    assert one.shown == pytest.approx(2.0)  # geometric means 4 and 2
    # Two runs: the variance of the mean of log 2 and log 8 is (log 4)^2 / 4, one degree of freedom: t = 12.706.
    half = 12.7062 * log(4) / 2
    assert np.log(one.interval()) == pytest.approx([log(2) - half, log(2) + half], rel=1e-4)
    assert len(compare.ratio(series([2.0, 8.0]), series([2.0, 3.0])).spread.shares) == 2
    assert compare.ratio(series([2.0]), series([1.0])).spread is None


def test_bytes_are_exact_and_one_run_is_enough():
    one, two = (replace(series([value]), exact=True) for value in (24.0, 20.0))
    assert compare.difference(one, two).spread.p(4.0) == 0.0
    assert compare.level(one).spread is not None
    assert compare.level(series([24.0])).spread is None
    assert compare.difference(series([24.0]), series([20.0])).spread is None


def test_an_interaction_holds_the_noise_of_seeds_and_of_both_sets_of_items():
    rng = np.random.default_rng(0)
    sets = [[rng.random((3, n)) for n in (40, 40)] for _ in range(2)]
    made_series = [tuple(series(list(m.mean(axis=1)), m) for m in pair) for pair in sets]
    one = compare.interaction(*made_series)
    d = [pair[0] - pair[1] for pair in sets]
    assert one.value == pytest.approx(d[0].mean() - d[1].mean())
    expected = [(d[0].mean(axis=1) - d[1].mean(axis=1)).var(ddof=1) / 3, *(x.mean(axis=0).var(ddof=1) / 40 for x in d)]
    assert [share for share, _ in one.spread.shares] == pytest.approx(expected)


def test_a_deviation_against_a_bound():
    # chi-squared with 2 degrees of freedom is exponential: P(X < x) = 1 - exp(-x / 2).
    low, high = compare.deviation_interval(1.0, 3)
    assert (low, high) == (pytest.approx((1 / -log(0.025)) ** 0.5), pytest.approx((1 / -log(0.975)) ** 0.5))
    assert compare.deviation_p(1.0, 3, high) == pytest.approx(0.05)
    assert compare.deviation_p(1.0, 3, low) == pytest.approx(0.05)


def test_the_command_says_what_has_not_run_and_writes_the_page(tmp_path, monkeypatch, capsys):
    project = new_project(tmp_path, monkeypatch)
    test = "test: {kind: better, quantifier: all, pairs: [[LoRA, Vanilla]]}"
    text = f"a: {{slide: S, sentence: T, asks: A, table: tiny, {test}}}\nb: {{slide: S, sentence: U, untestable: W}}\n"
    (project / "conf" / "claims").mkdir()
    (project / "conf" / "claims" / "x.yaml").write_text(text)
    monkeypatch.setattr(read.load, "__defaults__", (project / "conf",))
    assert main(["claims", "--profile", "real"]) == 0
    assert not (project / answer.CLAIMS).exists()
    assert "real      not run      make table T=tiny" in capsys.readouterr().out
    with composer():
        for cell in build.load("tiny").cells:
            items = {KEYS[0]: [float(i % 3 == 0 or (cell.row == "LoRA" and i % 3 == 1)) for i in range(30)]}
            write(record(cell.run, items), items, "results")
    assert main(["render", "tiny", "--no-figures"]) == 0
    capsys.readouterr()
    assert main(["claims"]) == 0
    # A third of the items more, the same on both seeds: 33.33 points, noise of the items alone.
    out = " ".join(capsys.readouterr().out.split())
    assert "real supported 1 of 1 shown for it, 0 against, 0 not told apart; LoRA - Vanilla, Facts +33.33 [" in out
    page = (project / answer.CLAIMS).read_bytes()
    assert b"[tiny](tables/tiny.md)" in page
    assert main(["claims"]) == 0
    assert (project / answer.CLAIMS).read_bytes() == page


CLAIMS = read.load()


def plain(text):
    """Text without emphasis, mathematics' dollars and line breaks."""
    return " ".join(re.sub(r"[*$]|</?\w+>", "", text).split())


@needs_slides
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda one: one.name)
def test_sentences_are_those_of_the_slides(claim):
    text = plain(SLIDES.read_text(encoding="utf-8"))
    assert plain(claim.sentence) in text
    headings = [
        plain(line.lstrip("# »")) for line in SLIDES.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    assert plain(claim.slide) in headings


@pytest.mark.parametrize("claim", [one for one in CLAIMS if one.test], ids=lambda one: one.name)
def test_claims_name_tables_rows_and_columns_that_exist(claim):
    for test in filter(None, (claim.test, claim.nano)):
        made_spec = spec.load(test.table)
        if "view" in test.options:
            assert test.options["view"] in [one["kind"] for one in made_spec.views]
        else:
            assert kinds.KINDS[test.kind](Printed(made_spec, [], Store({}, {}), {}), test.options)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{slide: S, sentence: T}", "needs asks, table and test"),
        ("{slide: S, sentence: T, asks: A, table: t, test: {kind: prove}}", "no known kind"),
        ("{slide: S, sentence: T, asks: A, table: t, test: {kind: better, pairs: [[A, B]]}}", "lacks quantifier"),
        (
            "{slide: S, sentence: T, asks: A, table: t, test: {kind: better, quantifier: few, pairs: [[A, B]]}}",
            "all, most",
        ),
        (
            "{slide: S, sentence: T, asks: A, table: t, test: {kind: better, quantifier: all, pairs: [A]}}",
            "list of pairs",
        ),
        ("{slide: S, sentence: T, table: t, untestable: because}", "take one of them out"),
    ],
)
def test_a_mistake_in_a_claim_says_what_is_wrong(tmp_path, text, match):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "x.yaml").write_text(f"one: {text}\n")
    with pytest.raises(UserError, match=match):
        read.load(tmp_path)


def test_two_claims_on_one_sentence_say_which_part(tmp_path):
    (tmp_path / "claims").mkdir()
    one = "{slide: S, sentence: T, untestable: because}"
    (tmp_path / "claims" / "x.yaml").write_text(f"one: {one}\ntwo: {one}\n")
    with pytest.raises(UserError, match="say in `part`"):
        read.load(tmp_path)


def test_a_name_that_is_not_there_is_one_line():
    for options, match in (
        ({"pairs": [["One", "Three"]]}, "no row 'Three'"),
        ({**PAIR, "columns": ["Z"]}, "no column 'Z'"),
    ):
        with pytest.raises(UserError, match=match):
            kinds.better(printed(NUMBERS), options)


def test_the_page_and_the_console(loaded):
    claim = read.Claim(
        "one", "A slide", "ILA is *better*", "It is.", read.Test("small", "better", "all", PAIR), None, not_nano="no"
    )
    found = kinds.better(printed(NUMBERS), PAIR)
    made_answer = answer.Answer(
        claim,
        judge.judge_published(found, "all"),
        {
            answer.REAL: judge.Verdict(judge.NOT_RUN, "45 runs of small to do"),
            answer.NANO: judge.Verdict(judge.NOT_ASKED, "no"),
        },
    )
    page = show.markdown([made_answer], {"small"})
    assert "[small](tables/small.md)" in page
    assert "does not decide a sentence about 7B models" in page
    assert (
        r"- Published: **mixed**: 1 of 4, 1 equal; from A: One - Two, Y -1.50 points to A: One - Two, X +1.00 points"
        in page
    )
    assert "- Ours, the slides' models: **not run**: 45 runs of small to do." in page
    text = show.console([made_answer])
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "  published mixed" in text
