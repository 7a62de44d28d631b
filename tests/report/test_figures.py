"""Figures: the same bytes every time, fonts embedded, neighbours on one sheet, nothing lost."""

import dataclasses
import re
import zlib

import matplotlib
import pytest
from matplotlib.text import Text

from layerfit.report import figure, figures
from layerfit.report.figures import bars, dots, heatmap, lines, style
from layerfit.report.figures.lines import look, positions
from layerfit.report.figures.sheets import sheets
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Column, Published
from layerfit.report.table import ColumnData, Costs, Entry, RowData, TableData

SMALL = Matrix("Small", "row", "column", "Jaccard", ("a", "b"), ("x", "y"), ((0.2, None), (0.9, 0.5)), "heatmap")
SIGNED = tuple(tuple(float(x - y) for x in range(20)) for y in range(4))
RASTER = Matrix("Raster", "layer", "step", "I", tuple("0123"), tuple(map(str, range(20))), SIGNED, "heatmap")
LINES = Matrix("Lines", "", "k", "loss", ("a", "b"), ("1", "2", "8"), ((1, 2, 3), (3, None, 1)), "lines", log=True)
BARS = dataclasses.replace(SMALL, title="Bars", drawing="bars", published=((0.3, None), (None, None)))
STACKED = dataclasses.replace(BARS, title="Stacked", drawing="stacked")
ALL = (SMALL, RASTER, LINES, BARS, STACKED)


@pytest.fixture(scope="module")
def drawn():
    return figures.draw(ALL)


def test_every_matrix_gives_a_png_and_a_pdf(drawn):
    assert sorted(drawn) == [f"{i}.{kind}" for i in range(1, 6) for kind in ("pdf", "png")]
    assert all(data.startswith(b"\x89PNG" if kind.endswith("png") else b"%PDF") for kind, data in drawn.items())


def test_the_same_matrices_give_the_same_bytes(drawn):
    assert figures.draw(ALL) == drawn


def test_fonts_are_embedded_and_no_date_is_written(drawn):
    for kind, data in drawn.items():
        if kind.endswith("pdf"):
            assert b"/FontFile2" in data, kind  # TrueType, embedded
            assert b"/Type3" not in data, kind
            assert b"/CreationDate" not in data, kind
            # No page is wider than a printed page's text: 6.9 inches of 72 points.
            boxes = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", data)
            assert boxes, kind
            assert all(float(w) <= 6.9 * 72 + 1 for w, _ in boxes), kind


LONG = "LLaMA-2-7B: memory by component (activations: first step)"
POSITIVE = dataclasses.replace(SMALL, values=((0.2, 3.0), (40.0, 0.5)), log=True)


@pytest.mark.parametrize(
    ("module", "sheet"),
    [
        (bars, [dataclasses.replace(STACKED, title=LONG)] * 3),
        (bars, [dataclasses.replace(POSITIVE, title=LONG, drawing="bars")] * 2),
        (lines, [dataclasses.replace(LINES, title=LONG, values=((0.3, 2, 300), (3, None, 1)))] * 3),
        (lines, [LINES]),
        (heatmap, [dataclasses.replace(POSITIVE, title=LONG)] * 3),
        (heatmap, [dataclasses.replace(RASTER, title=LONG)] * 3),
    ],
)
def test_no_text_is_cut_off_or_lies_on_a_title(module, sheet):
    with matplotlib.rc_context(style.STYLE):
        figure = module.draw(sheet)
        figure.draw_without_rendering()
        width, height = figure.bbox.size
        titles = []
        for axes in figure.axes:
            x, y = (sorted(limits()) for limits in (axes.get_xlim, axes.get_ylim))
            ticks = [one for one in axes.get_xticklabels() if x[0] <= one.get_position()[0] <= x[1]]
            ticks += [one for one in axes.get_yticklabels() if y[0] <= one.get_position()[1] <= y[1]]
            title = [one for one in axes.findobj(Text) if one.get_text() == axes.get_title(loc="left") != ""]
            for text in (*ticks, axes.xaxis.label, axes.yaxis.label, *title):
                box = text.get_window_extent()
                assert "$" not in text.get_text()
                assert min(box.x0, box.y0) >= -1, text
                assert box.x1 <= width + 1, text
                assert box.y1 <= height + 1, text
            titles += [one.get_window_extent() for one in title]
    assert len(titles) == len(sheet)
    assert not [1 for i, one in enumerate(titles) for other in titles[:i] if one.overlaps(other)]


def test_a_logarithmic_axis_has_plain_numbers():
    with matplotlib.rc_context(style.STYLE):
        (axes,) = lines.draw([dataclasses.replace(LINES, values=((0.3, 2, 30), (3, None, 1)))]).axes
        axes.figure.draw_without_rendering()
        said = [label.get_text() for label in axes.get_yticklabels() if label.get_text()]
    assert {"0.5", "1", "2", "5", "10", "20"} <= set(said)


def test_a_large_raster_is_an_image_and_no_drawing_of_every_cell():
    values = tuple(tuple(float((x * y) % 7) for x in range(500)) for y in range(32))
    big = dataclasses.replace(
        RASTER, rows=tuple(map(str, range(32))), columns=tuple(map(str, range(500))), values=values
    )
    assert len(figures.draw([big])["1.pdf"]) < 100_000


def test_neighbours_that_share_axes_share_a_figure():
    other = dataclasses.replace(RASTER, title="Another")
    seconds = dataclasses.replace(RASTER, value_name="seconds")
    assert [len(sheet) for sheet in sheets((RASTER, other, seconds, LINES, SMALL))] == [2, 1, 1, 1]


def test_what_nothing_is_known_of_is_not_drawn():
    empty = dataclasses.replace(SMALL, values=((None, None),) * 2)
    assert sheets((empty,)) == []
    assert len(sheets((dataclasses.replace(empty, published=((0.1, None), (None, None))),))) == 1


def test_an_unknown_drawing_is_refused():
    with pytest.raises(ValueError, match="drawing='pie' is no drawing"):
        figures.draw([dataclasses.replace(SMALL, drawing="pie")])


def test_lines_are_told_apart_without_colour():
    looks = [(look(i)["marker"], str(look(i)["linestyle"]), look(i)["color"]) for i in range(30)]
    assert len(set(looks)) == 30
    assert len({(marker, dash) for marker, dash, _ in looks}) == 30


def test_a_line_breaks_where_a_number_is_missing_and_a_lone_one_is_marked():
    from matplotlib.figure import Figure

    from layerfit.report.figures.lines import _panel

    axes = Figure().subplots()
    columns = tuple(map(str, range(40)))
    row = tuple(None if x in (20, 22) else 1.0 for x in range(40))
    _panel(axes, dataclasses.replace(LINES, rows=("a",), columns=columns, values=(row,), log=False))
    (line,) = axes.lines
    assert [x for x, y in enumerate(line.get_ydata()) if y != y] == [20, 22]
    assert 21 in line.get_markevery()


def test_numbers_are_placed_at_their_value_names_one_by_one():
    assert positions(("1%", "25%", "100%")) == [1, 25, 100]
    assert positions(("embedding", "0", "1")) == [0, 1, 2]
    assert positions(("4", "2")) == [0, 1]


def test_a_heat_maps_colours_are_even_in_lightness_and_white_at_zero():
    from layerfit.report.figures.heatmap import _colors

    norm, colors = _colors((RASTER,))
    assert norm(0.0) == pytest.approx(0.5)
    assert min(colors(0.5)[:3]) > 0.94
    norm, colors = _colors((SMALL,))
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in (colors(i / 10) for i in range(11))]
    assert light == sorted(light)


def table(name="t", groups=("A", "A", "A", "B", "B", "B"), **changes):
    column = ColumnData(Column("MMLU", "mmlu/acc", chance=0.25), 100, True, 2, 0.1)
    theirs = Published("45.2 ± 0.1", 45.2, 0.1, False, "a paper")
    rows = []
    for i, group in enumerate(groups):
        entry = Entry(values=((0, 0.5 + i / 100),), mean=0.5 + i / 100, published=theirs)
        rows.append(RowData(f"{group} row {i}", i % 3 > 0, (entry,), Costs(), group, f"row {i}"))
    return TableData(name, "A table", "", tuple(rows), (column,), draft=False, **changes)


def test_groups_of_several_rows_have_an_axis_each_and_their_own_reference():
    a, b = dots.layout(table(groups=("A",) * 5 + ("B",) * 5), one_line=True)
    assert [(row.short, y) for row, y in a.lines] == [("row 1", 1.0), ("row 2", 2.0), ("row 4", 3.0)]
    assert {row.group for row in a.references} == {"A"}
    assert {row.group for row in b.references} == {"B"}
    (both,) = dots.layout(table(), one_line=True)  # two rows a group: on one axis
    assert both.heads == {"A": 0.0, "B": 3.5}
    assert [y for _, y in both.lines] == [1.0, 2.0, 4.5, 5.5]


def test_published_numbers_are_drawn_but_not_beside_a_profiles_models():
    assert dots.layout(table(), one_line=True)[0].with_published
    assert not dots.layout(table("t.nano"), one_line=True)[0].with_published


def test_a_column_that_is_a_hole_has_a_panel_only_for_published_numbers():
    hole = ColumnData(Column("Judged", None, hole="no judge"), None, True, 0, None)
    data = table("t.nano", matrices=(SMALL,))
    data = dataclasses.replace(data, columns=(hole,))
    assert dots.columns(data) == []
    assert sorted(figure.draw(data)) == ["1.pdf", "1.png"]
    assert dots.columns(dataclasses.replace(data, name="t")) == [0]


def test_a_drafts_figures_say_so():
    final, draft = (figures.draw([SMALL], draft=draft)["1.pdf"] for draft in (False, True))
    streams = [re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL) for pdf in (final, draft)]
    pages = [
        max((zlib.decompress(s) for s in found if s[:1] == b"x"), key=lambda t: t.count(b"Tf")) for found in streams
    ]
    assert pages[1].count(b"Tf") == pages[0].count(b"Tf") + 1


def test_published_numbers_of_matrices_are_not_drawn_beside_a_profiles_models():
    with_theirs, without = table(matrices=(BARS,)), table(matrices=(dataclasses.replace(BARS, published=None),))
    of_profile = dataclasses.replace(with_theirs, name="t.nano")
    pdfs = [figure.draw(data)["1.pdf"] for data in (with_theirs, without, of_profile)]
    assert pdfs[0] != pdfs[1] == pdfs[2]


def test_hundreds_of_rows_are_left_to_the_matrices():
    data = table(groups=("",) * 61)
    assert dots.columns(data) == [0]
    assert dots.columns(dataclasses.replace(data, matrices=(SMALL,))) == []
