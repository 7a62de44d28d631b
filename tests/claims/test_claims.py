"""Claims: verdicts from records, the sentences word for word, the page."""

import re
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from layerfit.claims import answer, judge, kinds, read, show
from layerfit.claims.sources import Printed, Records
from layerfit.config import composer
from layerfit.errors import UserError
from layerfit.records.record import write
from layerfit.report import build, compare, spec
from layerfit.report.__main__ import main
from layerfit.report.cells import Store
from tests.claims.test_claims_kinds import NUMBERS, PAIR, printed
from tests.helpers.report_fakes import KEYS, SHARES, fill, new_project, record, small

SLIDES = Path(__file__).resolve().parents[3] / "shared" / "papers" / "slides.txt"
needs_slides = pytest.mark.skipif(not SLIDES.is_file(), reason=f"no slides at {SLIDES}")
GROUPS = {"A": {"rows": {"One": [], "Two": []}}, "B": {"rows": {"One": [], "Two": []}}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    made_spec = small(results=str(folder))
    from layerfit.report import cells

    with composer():
        table = cells.cells(made_spec)
        fill(table, folder, SHARES)
        return build.LoadedTable(made_spec, None, table, cells.load(table, folder))


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
    gate = build.table.TableGate("untrained model at chance", False, "")
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


def test_no_verdict_rests_on_memory_of_a_first_step(loaded):
    """Counted bytes of schema 2; measured anew, or said by an allocator, they count."""

    def word(memory, over, key="measured/peak_bytes", **options):
        measured = {"peak_memory_bytes": memory, "activations_over": over}
        records = {n: replace(r, measured=replace(r.measured, **measured)) for n, r in loaded.store.records.items()}
        column = replace(loaded.spec.columns[1], key=key, label="Rules", unit="mib")
        made = replace(
            loaded, store=replace(loaded.store, records=records), spec=replace(loaded.spec, columns=(column,))
        )
        test = read.Test("small", "better", "any", {"pairs": [["ILA", "LoRA"]], "columns": ["Rules"], **options})
        return answer.judged(test, made, replace(build.assemble(loaded), problems=())).word

    counted = dict.fromkeys(("weights", "gradients", "optimizer", "activations"), 2**20)
    first = word({**counted, "allocated": None}, None)
    assert first == judge.NOT_ANSWERED
    assert word({**counted, "allocated": 2**20}, None, "measured/activations_bytes") == judge.NOT_ANSWERED
    for memory, over, key in (
        (counted, "every step", "measured/peak_bytes"),
        ({**counted, "allocated": 2**20}, None, "measured/peak_bytes"),
        (counted, None, "measured/weights_bytes"),
    ):
        assert word(memory, over, key) != judge.NOT_ANSWERED


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
    with pytest.raises(UserError, match="tell them apart with `part`"):
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
