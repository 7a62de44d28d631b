"""Heat maps: small ones with their numbers side by side, large ones one under the other over the page's width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerfit.report.figures import style
from layerfit.report.figures.sheets import WIDE, Sheet
from layerfit.report.matrix import Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TALLEST, CELL, LOWEST = 2.1, 0.165, 1.4  # inches: a large map, a row of one, a figure
BAR, BAR_ROOM = 0.09, 0.62  # inches: the colour bar, with its labels


def draw(sheet: Sheet) -> Figure:
    """Return one figure for maps that share their axes' meaning and their colours."""
    wide = len(sheet[0].columns) > WIDE
    return _stacked(sheet) if wide else _beside(sheet)


def _stacked(sheet: Sheet) -> Figure:
    """Draw large maps: shared columns, one colour bar."""
    left = 0.34 + max(style.text_width(row) for m in sheet for row in m.rows)
    heights = [min(TALLEST, CELL * len(m.rows)) for m in sheet]
    top, bottom, between = 0.3, 0.42, 0.32
    height = max(LOWEST, top + bottom + sum(heights) + between * (len(sheet) - 1))
    figure = style.new_figure(style.PAGE, height)
    width = style.PAGE - left - BAR_ROOM - 0.12
    norm, colors = _colors(sheet)
    y = height - top
    for index, (matrix, tall) in enumerate(zip(sheet, heights, strict=True)):
        y -= tall
        axes = figure.add_axes((left / style.PAGE, y / height, width / style.PAGE, tall / height))
        last = index == len(sheet) - 1
        _map(axes, matrix, norm, colors, width, tall)
        axes.set_title(matrix.title)
        axes.set_xlabel(matrix.column_name if last else "")
        axes.tick_params(labelbottom=last)
        axes.set_ylabel(matrix.row_name)
        y -= between
    figure.align_ylabels()
    span = min(TALLEST, max(LOWEST, height - top) - bottom)
    middle = (height - top + bottom - span) / 2 if height > LOWEST else 0.2
    _bar(figure, sheet[0], norm, colors, (style.PAGE - BAR_ROOM, middle, BAR, span))
    return figure


def _beside(sheet: Sheet) -> Figure:
    """Draw small maps with a number in every cell."""
    first = sheet[0]
    cell = max(0.4, *(style.text_width(c) + 0.1 for c in first.columns))
    tall = 0.36 if any(m.published for m in sheet) else 0.26
    left = 0.3 + max(style.text_width(row) for m in sheet for row in m.rows)
    # A title may be wider than its map.
    widths = [max(cell * len(m.columns), style.text_width(m.title, style.TITLE) - left + 0.1) for m in sheet]
    across = max(1, min(len(sheet), int((style.PAGE - BAR_ROOM - 0.1) / (left + max(widths)))))
    down = -(-len(sheet) // across)
    top, bottom, rows = 0.32, 0.44 + 0.16 * any(m.published for m in sheet), max(len(m.rows) for m in sheet)
    block = top + tall * rows + bottom
    width, height = across * (left + max(widths)) + BAR_ROOM + 0.16, down * block
    figure = style.new_figure(width, height)
    norm, colors = _colors(sheet)
    for index, matrix in enumerate(sheet):
        line, place = divmod(index, across)
        x, w, h = place * (left + max(widths)) + left, cell * len(matrix.columns), tall * len(matrix.rows)
        y = height - line * block - top - h
        axes = figure.add_axes((x / width, y / height, w / width, h / height))
        _map(axes, matrix, norm, colors, w, h)
        _numbers(axes, matrix, norm, colors)
        axes.set(xlabel=matrix.column_name, ylabel=matrix.row_name)
        axes.set_title(matrix.title, x=-0.8 * (left - 0.1) / w)
    if any(m.published for m in sheet):
        figure.text(0.1 / width, 0.06 / height, "in brackets: published", fontsize=style.SMALL, color=style.SOFT)
    h = tall * rows
    _bar(figure, first, norm, colors, (width - BAR_ROOM, height - top - h, BAR, h))
    return figure


def _values(matrix: Matrix) -> Any:
    return np.array([[np.nan if v is None else v for v in row] for row in matrix.values], dtype=float)


def _colors(sheet: Sheet) -> tuple[Any, Any]:
    """Return the shared scale: white at zero where numbers have both signs, else from the lowest to the highest."""
    import matplotlib
    from matplotlib.colors import LogNorm, Normalize

    known = np.concatenate([_values(m).ravel() for m in sheet])
    known = known[np.isfinite(known)]
    if not known.size:
        return Normalize(0, 1), matplotlib.colormaps[style.SEQUENTIAL]
    low, high = float(known.min()), float(known.max())
    if sheet[0].log and low > 0:
        return LogNorm(low, high), matplotlib.colormaps[style.SEQUENTIAL]
    if low < 0 < high:
        # A few extreme cells would leave the rest white.
        reach = max(float(np.quantile(np.abs(known), 0.995)), 1e-12)
        return Normalize(-reach, reach), matplotlib.colormaps[style.DIVERGING]
    if low == high:
        low, high = low - 0.5, high + 0.5
    return Normalize(low, high), matplotlib.colormaps[style.SEQUENTIAL]


def _map(axes: Axes, matrix: Matrix, norm: Any, colors: Any, width: float, height: float) -> None:
    """Draw the cells, unknown ones hatched, and as many labels as fit."""
    values = _values(matrix)
    axes.set_facecolor(style.MISSING)
    if np.isnan(values).any():
        from matplotlib.patches import Rectangle

        # Hatched by cell: a hatch over the whole map would make a PDF of a raster heavy.
        for y, x in np.argwhere(np.isnan(values)):
            box = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="/////", edgecolor="#C4C4C4", linewidth=0)
            axes.add_patch(box)
    axes.imshow(values, norm=norm, cmap=colors, aspect="auto", interpolation="nearest")
    across = max(1, int(width / (0.09 + max(style.text_width(c) for c in matrix.columns))))
    _ticks(axes.xaxis, matrix.columns, across)
    _ticks(axes.yaxis, matrix.rows, max(1, int(height / 0.12)))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if values.shape[1] <= 40 and values.shape[0] <= 40:
        axes.set_xticks(np.arange(values.shape[1] - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(values.shape[0] - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=0.8 if values.shape[1] <= WIDE else 0.35)
        axes.tick_params(which="minor", length=0)


def _ticks(axis: Any, labels: tuple[str, ...], most: int) -> None:
    """Label every cell, or every 2nd, 4th, 5th, 10th, ... where not all fit."""
    steps = (1, 2, 4, 5, 8, 10, 16, 20, 25, 40, 50, 100, 200, 250, 500, 1000)
    step = next((s for s in steps if -(-len(labels) // s) <= most), len(labels))
    places = range(0, len(labels), step)
    axis.set_ticks(list(places), [labels[i] for i in places])


def _numbers(axes: Axes, matrix: Matrix, norm: Any, colors: Any) -> None:
    """Write the number into every cell, the published one in brackets below it."""
    published = matrix.published or tuple((None,) * len(matrix.columns) for _ in matrix.rows)
    for y, (ours, theirs) in enumerate(zip(matrix.values, published, strict=True)):
        for x, (value, known) in enumerate(zip(ours, theirs, strict=True)):
            texts = [] if value is None else [style.number(value, matrix.decimals)]
            texts += [] if known is None else [f"({style.number(known, matrix.decimals)})"]
            color = style.INK if value is None else _ink(colors(norm(value)))
            axes.text(x, y, "\n".join(texts), ha="center", va="center", fontsize=style.SMALL, color=color)


def _ink(color: tuple[float, ...]) -> str:
    """Return black or white, for contrast with a colour."""
    red, green, blue = (((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in color[:3])
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.18 else style.INK


def _bar(figure: Figure, matrix: Matrix, norm: Any, colors: Any, box: tuple[float, float, float, float]) -> None:
    """Draw the colour bar; box: left, bottom, width, height in inches."""
    from matplotlib.cm import ScalarMappable

    width, height = figure.get_size_inches()
    place = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    known = _values(matrix)
    beyond = np.nanmax(np.abs(known), initial=0) > norm.vmax if norm.vmin == -norm.vmax else False
    bar = figure.colorbar(
        ScalarMappable(norm, colors), cax=figure.add_axes(place), extend="both" if beyond else "neither"
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=style.SMALL, length=2)
    if matrix.log:
        style.log_ticks(bar.ax.yaxis)
    bar.set_label(matrix.value_name, fontsize=style.SMALL)
