"""Bars: grouped by row, one per column, or the columns stacked to a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerfit.report.figures import style
from layerfit.report.figures.sheets import Sheet
from layerfit.report.matrix import Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP, BOTTOM, ENTRY = 0.32, 0.42, 0.17
THICK, THIN, GAP = 0.17, 0.11, 0.09  # inches: a bar, one of several, between rows
NONE_KNOWN = "no record"


def draw(sheet: Sheet) -> Figure:
    """Return one figure for panels with the same rows, side by side."""
    columns = sheet[0].columns
    across = min(len(sheet), 2)
    down = -(-len(sheet) // across)
    width = style.PAGE if across > 1 else 5.2
    labels = 0.12 + max(style.text_width(row, style.NORMAL) for row in sheet[0].rows)
    rows = _row_height(sheet) * len(sheet[0].rows)
    with_published = any(m.has_published for m in sheet)
    longest = max(style.text_width(name, style.NORMAL) for name in columns)
    legend_across = max(1, int(width / (0.5 + longest)))
    entries = len(columns) + with_published
    legend = 0.12 + ENTRY * -(-entries // legend_across) if entries > 1 else 0.0
    panel = (width - labels) / across
    top = TOP + style.TITLE_LINE * (style.title_lines((m.title for m in sheet), panel - 0.1) - 1)
    height = down * (top + rows + BOTTOM) + legend
    figure = style.new_figure(width, height)
    for index, matrix in enumerate(sheet):
        line, place = divmod(index, across)
        x, y = labels + place * panel, height - line * (top + rows + BOTTOM) - top - rows
        axes = figure.add_axes((x / width, y / height, (panel - 0.5) / width, rows / height))
        (_stacks if matrix.drawing == "stacked" else _groups)(axes, matrix, with_published)
        _dress(axes, matrix, named=place == 0)
        style.title(axes, matrix.title, panel - 0.1)
    if legend:
        style.legend(figure, _legend(sheet, with_published), legend_across, handlelength=1.4)
    return figure


def _row_height(sheet: Sheet) -> float:
    first = sheet[0]
    if first.drawing == "stacked":
        return THICK + GAP + (THIN if any(m.has_published for m in sheet) else 0)
    bars = len(first.columns)
    return GAP + (THICK if bars == 1 else THIN * bars)


def colors(count: int) -> list[Any]:
    """Return colours from dark to light: they differ in greyscale as well."""
    import matplotlib

    steps = [0.12 + 0.8 * i / max(1, count - 1) for i in range(count)]
    return [matplotlib.colormaps[style.SEQUENTIAL](step) for step in steps]


def _stacks(axes: Axes, matrix: Matrix, with_published: bool) -> None:
    """Draw every row's parts stacked with their sum; published ones as outlines below."""
    paints = colors(len(matrix.columns))
    total = THICK + GAP + (THIN if with_published else 0)
    largest = max((sum(v or 0 for v in row) for row in (*matrix.values, *(matrix.published or ()))), default=1)
    for y, row in enumerate(matrix.values):
        middle = y - (0.5 * THIN / total if with_published else 0)
        _stack(axes, row, middle, THICK / total, paints, matrix)
        if matrix.published and any(v is not None for v in matrix.published[y]):
            theirs, start = matrix.published[y], 0.0
            for value in theirs:
                axes.barh(
                    y + 0.5 * THICK / total,
                    value or 0,
                    0.8 * THIN / total,
                    left=start,
                    color="none",
                    edgecolor=style.INK,
                    linewidth=0.7,
                )
                start += value or 0
            _end(axes, start, y + 0.5 * THICK / total, style.number(start, matrix.decimals), color=style.SOFT)
    axes.set_xlim(0, 1.02 * largest)


def _stack(axes: Axes, row: tuple[float | None, ...], y: float, thick: float, paints: list[Any], m: Matrix) -> None:
    known = [value for value in row if value is not None]
    if not known:
        axes.text(0, y, f" {NONE_KNOWN}", va="center", fontsize=style.SMALL, color=style.SOFT, fontstyle="italic")
        return
    start = 0.0
    for value, paint in zip(row, paints, strict=True):
        axes.barh(y, value or 0, thick, left=start, color=paint, edgecolor="white", linewidth=0.4)
        start += value or 0
    text = style.number(start, m.decimals) + (" + unknown" if len(known) < len(row) else "")
    _end(axes, start, y, text)


def _end(axes: Axes, x: float, y: float, text: str, color: str = style.INK) -> None:
    axes.annotate(
        text, (x, y), xytext=(2.5, 0), textcoords="offset points", va="center", fontsize=style.SMALL, color=color
    )


def _groups(axes: Axes, matrix: Matrix, with_published: bool) -> None:
    """Draw a bar for every row and column with its number; the published one as a hollow mark on it."""
    paints, bars = colors(len(matrix.columns)), len(matrix.columns)
    total = _row_height((matrix,))
    thick = (THICK if bars == 1 else THIN) / total
    for y, row in enumerate(matrix.values):
        for index, value in enumerate(row):
            place = y + (index - (bars - 1) / 2) * thick
            if value is None:
                none = all(v is None for v in row)
                text = f" {NONE_KNOWN}" if none and index == bars // 2 else "" if none else " -"
                axes.text(0, place, text, va="center", fontsize=style.SMALL, color=style.SOFT, fontstyle="italic")
            else:
                axes.barh(place, value, 0.92 * thick, color=paints[index] if bars > 1 else style.COLORS[1])
                _end(axes, max(value, 0), place, style.number(value, matrix.decimals))
            theirs = matrix.published[y][index] if matrix.published and with_published else None
            if theirs is not None:
                axes.plot(theirs, place, "D", color=style.COLORS[2], markersize=3.4, markerfacecolor="none", zorder=5)
    if matrix.log:
        axes.set_xscale("log")
        style.log_ticks(axes.xaxis)


def _dress(axes: Axes, matrix: Matrix, *, named: bool) -> None:
    """Label the rows at the left panel, the values below."""
    axes.set_yticks(range(len(matrix.rows)), matrix.rows if named else [""] * len(matrix.rows), fontsize=style.NORMAL)
    axes.set_ylim(len(matrix.rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(matrix.value_name)
    axes.grid(axis="x", color=style.GRID, linewidth=0.6)
    axes.locator_params(axis="x", nbins=6) if not matrix.log else None
    if any(v is not None and v < 0 for row in matrix.values for v in row):
        axes.axvline(0, color=style.SOFT, linewidth=0.6)


def _legend(sheet: Sheet, with_published: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    columns = sheet[0].columns
    out: list[Any] = []
    if len(columns) > 1:
        out += [Patch(color=paint, label=name) for name, paint in zip(columns, colors(len(columns)), strict=True)]
    if with_published and sheet[0].drawing == "stacked":
        out.append(Patch(facecolor="none", edgecolor=style.INK, linewidth=0.7, label="outlined: published"))
    elif with_published:
        mark: dict[str, Any] = {"markersize": 3.4, "markerfacecolor": "none", "linestyle": "none"}
        out.append(Line2D([], [], marker="D", color=style.COLORS[2], label="hollow: published", **mark))
    return out
