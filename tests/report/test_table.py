"""From records to numbers, and to Markdown, LaTeX, console and figure."""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pytest

from layerfit.config import composer
from layerfit.records.record import read, record_path
from layerfit.report import build, cells, figure, render
from layerfit.report.stats import NotTestable
from layerfit.report.table import TableGate
from tests.helpers.report_fakes import SHARES, fill, small

GOLDEN = Path(__file__).parents[1] / "golden" / "report_small.md"


def loaded(folder, **sections):
    """A small table with all its records."""
    spec = small(results=str(folder), **sections)
    with composer():
        made = cells.cells(spec)
    if not (folder / "runs").exists():
        fill(made, folder, SHARES)
    return build.LoadedTable(spec, None, made, cells.load(made, folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def data(folder):
    return build.assemble(loaded(folder))


def row(data, label):
    return next(r for r in data.rows if r.label == label)


def test_numbers_are_those_of_the_records(folder, data):
    table = loaded(folder)
    values = [read(folder, c.run_id).result.scores[0].value for c in table.cells if c.row == "LoRA"]
    entry = row(data, "LoRA").entries[0]
    assert entry.mean == pytest.approx(sum(values) / 3)
    assert entry.spread == pytest.approx(np.std(values, ddof=1))
    assert [v for _, v in entry.values] == values
    assert entry.interval[0] < entry.mean < entry.interval[1]


def test_vanilla_is_one_run_without_a_spread(data):
    entry = row(data, "Vanilla").entries[0]
    assert len(entry.values) == 1
    assert entry.spread is None
    assert not row(data, "Vanilla").trains


def test_bold_is_what_is_not_shown_worse(data):
    # Made with 0.60 and 0.61 right for facts, 0.45 and 0.60 for rules.
    assert [row(data, label).entries[0].bold for label in ("Vanilla", "LoRA", "ILA")] == [False, True, True]
    assert [row(data, label).entries[1].bold for label in ("Vanilla", "LoRA", "ILA")] == [False, False, True]
    assert sum(r.entries[0].best for r in data.rows) == 1
    assert data.columns[0].comparisons == 2
    assert 0 < data.columns[0].detectable < 0.3


def test_seconds_and_tokens_hold_those_of_the_required_run(data):
    assert (row(data, "LoRA").costs.tokens, row(data, "ILA").costs.tokens) == (80_000, 160_000)
    assert row(data, "LoRA").costs.seconds == 15.0
    assert row(data, "ILA").costs.seconds == 19.0
    assert row(data, "Vanilla").costs.seconds is None


def test_an_unknown_cost_is_a_dash_with_its_reason(tmp_path):
    table = loaded(tmp_path)
    cell = table.cells[1]
    old = table.store.records[cell.run_id]
    measured = dataclasses.replace(old.measured, tokens_per_s=None, unknown={"tokens_per_s": "clock stopped"})
    table.store.records[cell.run_id] = dataclasses.replace(old, measured=measured)
    data = build.assemble(table)
    assert row(data, "LoRA").costs.tokens_per_s is None
    assert any("Not known: tokens/s: clock stopped" in note and "(LoRA)" in note for note in data.footnotes)


def test_where_lower_is_better_the_lowest_is_best(tmp_path):
    table = loaded(tmp_path)
    for name, old in table.store.records.items():
        scores = [dataclasses.replace(s, higher_is_better=False) for s in old.result.scores]
        table.store.records[name] = dataclasses.replace(old, result=dataclasses.replace(old.result, scores=scores))
    assert [r.entries[0].best for r in build.assemble(table).rows] == [True, False, False]


def test_without_items_nothing_is_tested_and_nothing_bold(folder):
    table = loaded(folder)
    data = build.assemble(dataclasses.replace(table, store=cells.Store(table.store.records, {})))
    assert not any(entry.bold for r in data.rows for entry in r.entries)
    assert isinstance(row(data, "LoRA").entries[0].against_best, NotTestable)
    assert any("no per-item outcomes" in note for note in data.footnotes)
    assert not any(note.startswith("Bold") for note in data.footnotes)


def test_a_score_that_is_no_mean_over_items_is_not_tested(folder):
    table = loaded(folder)
    items = {name: {k: [0.0] * len(v) for k, v in one.items()} for name, one in table.store.items.items()}
    data = build.assemble(dataclasses.replace(table, store=cells.Store(table.store.records, items)))
    assert any("no mean over its items" in note for note in data.footnotes)


def test_a_row_that_was_asked_other_items_is_not_tested(folder):
    table = loaded(folder)
    for cell in table.cells:
        if cell.row == "LoRA":
            old = table.store.records[cell.run_id]
            scores = [dataclasses.replace(s, docs="others") for s in old.result.scores]
            table.store.records[cell.run_id] = dataclasses.replace(
                old, result=dataclasses.replace(old.result, scores=scores)
            )
    data = build.assemble(table, draft=True)
    assert row(data, "LoRA").entries[0].against_best == NotTestable("other items were asked")
    assert not row(data, "LoRA").entries[0].bold
    assert data.columns[0].comparisons == 1


def test_holes_are_shown_in_a_draft_and_refused_otherwise(tmp_path, monkeypatch):
    table = loaded(tmp_path)
    record_path(tmp_path, table.cells[2].run_id).unlink()
    table = loaded(tmp_path)
    refused = build.assemble(table)
    assert refused.problems == ("no record: LoRA, seed 1",)
    with pytest.raises(ValueError, match="refused"):
        build.write(table, refused)
    draft = build.assemble(table, draft=True)
    assert row(draft, "LoRA").entries[0].holes == ("LoRA, seed 1: no record",)
    monkeypatch.chdir(tmp_path)
    paths = build.write(table, draft)
    assert {p.parent for p in paths} == {Path("outputs/drafts/tables"), Path("outputs/drafts/figures")}
    for path in paths[:2]:
        text = path.read_text()
        assert "DRAFT: A small table" in text
        assert "(2/3)" in text
        assert "no record: LoRA, seed 1" in text
    out = io.StringIO()
    render.console(draft, file=out)
    assert out.getvalue().startswith("DRAFT: A small table")


def test_a_draft_of_a_good_table_is_the_table(folder):
    assert not build.assemble(loaded(folder), draft=True).draft


def test_published_numbers_stand_beside_ours(folder):
    rows = {"LoRA": ["**43.10 ± 0.40**"], "ILA": [None]}
    published = {"source": "A paper, table 2", "columns": ["Facts"], "rows": rows}
    data = build.assemble(loaded(folder, published=published))
    text = render.markdown(data)
    assert "| Facts | Facts, published | Rules |" in text
    assert "| **43.10 ± 0.40** |" in text  # as printed there, the last zeros too
    assert "A paper, table 2" in text
    assert row(data, "LoRA").entries[0].mean == row(build.assemble(loaded(folder)), "LoRA").entries[0].mean


def test_gates_are_printed_with_their_verdict(folder):
    gates = [TableGate("chance", True, "within 2 standard errors"), TableGate("apart", None, "no seeds")]
    text = render.markdown(build.assemble(loaded(folder), gates=gates))
    assert "Gate chance: passed. within 2 standard errors" in text
    assert "Gate apart: not decided. no seeds" in text
    assert "cannot rank methods" in text


def test_the_embedded_world_gates_the_columns_that_its_table_names(folder):
    gates = {"columns": ["Facts"], "untrained": "Vanilla", "full": "ILA"}
    decided = build.assemble(loaded(folder, gates=gates)).gates
    assert [gate.passed for gate in decided[:2]] == [True, True]
    assert "Facts 0.2" in decided[0].detail
    assert not any("Rules" in gate.detail for gate in decided)
    assert any("gate did not pass" in line for line in render.under(build.assemble(loaded(folder, gates=gates))))


@pytest.mark.parametrize(("gates", "text"), [({"colums": []}, "colums"), ({"columns": ["Fact"]}, "Facts, Rules")])
def test_a_mistake_in_the_gates_is_named(folder, gates, text):
    with pytest.raises(ValueError, match=text):
        build.assemble(loaded(folder, gates=gates))


def test_golden_markdown(data):
    # A changed line here is a changed table: look at it, then write the file anew with LAYERFIT_GOLDEN=1.
    if os.environ.get("LAYERFIT_GOLDEN"):
        GOLDEN.write_text(render.markdown(data))
    assert render.markdown(data) == GOLDEN.read_text()


def test_rendering_twice_gives_the_same_bytes(folder, tmp_path):
    first, second = (build.assemble(loaded(folder)) for _ in range(2))
    assert render.latex(first) == render.latex(second)
    assert render.markdown(first) == render.markdown(second)
    assert figure.draw(first) == figure.draw(second)


def test_latex_prints_any_text(data):
    assert render.escape_latex(r"50% of a_b & {c} \d ~ ^ # $ ±") == (
        r"50\% of a\_b \& \{c\} \textbackslash{}d \textasciitilde{} \textasciicircum{} \# \$ $\pm$"
    )
    text = render.latex(dataclasses.replace(data, title="R&D_100%"))
    assert r"\caption{R\&D\_100\%." in text
    assert r"\toprule" in text
    assert text.count(r" \\") == 4


def test_markdown_prints_any_text(data):
    assert r"# a\|b\_c\*" in render.markdown(dataclasses.replace(data, title="a|b_c*"))


@pytest.mark.parametrize("times", [1, 4])
def test_the_console_stays_within_100_columns(data, times):
    wide = dataclasses.replace(
        data,
        columns=data.columns * times,
        rows=tuple(dataclasses.replace(r, entries=r.entries * times) for r in data.rows),
    )
    out = io.StringIO()
    render.console(wide, file=out)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in out.getvalue()
    assert sum(line.count("Facts  ") for line in lines if "Rules" in line) == times


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (841, "841"),
        (999.9, "1.00k"),
        (5200, "5.20k"),
        (123456, "123k"),
        (999_999, "1.00M"),
        (6.738e9, "6.74B"),
    ],
)
def test_counts_have_three_figures(value, text):
    assert render.count(value) == text


def test_the_figure_embeds_its_fonts_and_no_date(data):
    files = figure.draw(data)
    assert files["png"].startswith(b"\x89PNG")
    assert b"/Type3" not in files["pdf"]
    assert b"CreationDate" not in files["pdf"]


def test_a_table_without_any_record_can_be_drawn(tmp_path):
    (tmp_path / "runs").mkdir()
    assert figure.draw(build.assemble(loaded(tmp_path), draft=True))["png"]
