"""Lines: one per row over the columns, distinguished by colour, marker and dash."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from layerfit.report.figures import style
from layerfit.report.figures.sheets import Sheet
from layerfit.report.matrix import Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT, TOP, BOTTOM, LEFT = 1.9, 0.32, 0.42, 0.62  # inches of a panel
ENTRY = 0.17


def draw(sheet: Sheet) -> Figure:
    """Return one figure for panels that share their lines."""
    names = sheet[0].rows
    crowded = len(sheet[0].columns) > 20 and not all(column.isdigit() for column in sheet[0].columns)
    across = 1 if crowded or len(sheet) == 1 else min(len(sheet), 2 if len(sheet) != 3 else 3)
    down = -(-len(sheet) // across)
    width = style.PAGE if crowded or across > 1 else 4.4
    legend_across = max(1, int(width / (0.55 + max(style.text_width(n, style.NORMAL) for n in names))))
    legend = 0.12 + ENTRY * -(-(len(names) + any(m.has_published for m in sheet)) // legend_across)
    below = BOTTOM + max(_drop(m.columns) for m in sheet)
    panel = width / across
    top = TOP + style.TITLE_LINE * (style.title_lines((m.title for m in sheet), panel - LEFT) - 1)
    height = down * (top + HEIGHT + below) + legend
    figure = style.new_figure(width, height)
    for index, matrix in enumerate(sheet):
        line, place = divmod(index, across)
        x, y = place * panel + LEFT, height - line * (top + HEIGHT + below) - top - HEIGHT
        axes = figure.add_axes((x / width, y / height, (panel - LEFT - 0.12) / width, HEIGHT / height))
        _panel(axes, matrix)
        style.title(axes, matrix.title, panel - LEFT)
        axes.set_ylabel(matrix.value_name if place == 0 else "")
    style.legend(figure, _legend(sheet), legend_across, handlelength=2.4)
    return figure


def look(index: int) -> dict[str, Any]:
    """Return the colour, marker and dash of a line by its number; the first 35 all differ."""
    return {
        "color": style.COLORS[index % len(style.COLORS)],
        "marker": style.MARKERS[index % len(style.MARKERS)],
        "linestyle": style.DASHES[(index + index // len(style.COLORS)) % len(style.DASHES)],
        "linewidth": 1.15,
        "markersize": 3.2,
    }


def _panel(axes: Axes, matrix: Matrix) -> None:
    places = positions(matrix.columns)
    every = max(1, len(places) // 12)
    for index, row in enumerate(matrix.values):
        # A line breaks where a number is missing. Markers of different lines are at different columns, so that lines
        # that coincide are both visible; a number without neighbours always has one.
        known = [math.nan if v is None or (matrix.log and v <= 0) else v for v in row]
        marked = [i for i in range(len(known)) if i % every == index % every or _alone(known, i)]
        axes.plot(places, known, **look(index), markevery=marked, zorder=3)
    for index, row in enumerate(matrix.published or ()):
        theirs = [(x, v) for x, v in zip(places, row, strict=True) if v is not None and not (matrix.log and v <= 0)]
        hollow = {**look(index), "linestyle": "none", "markersize": 5, "markerfacecolor": "none"}
        axes.plot(*_split(theirs), **hollow, zorder=4)
    if matrix.log:
        axes.set_yscale("log")
        style.log_ticks(axes.yaxis)
    axes.set_xlabel(matrix.column_name)
    axes.grid(axis="y", color=style.GRID, linewidth=0.6)
    shown = _labelled(matrix.columns, places)
    axes.set_xticks([places[i] for i in shown], [matrix.columns[i] for i in shown])
    if _drop(matrix.columns):
        for label in axes.get_xticklabels():
            label.set_rotation(0 if label.get_text().isdigit() else 90)


def _alone(values: list[float], index: int) -> bool:
    """Return whether a number has no known neighbour."""
    return all(math.isnan(values[i]) for i in (index - 1, index + 1) if 0 <= i < len(values))


def _drop(columns: tuple[str, ...]) -> float:
    """Return the inches that vertical column names need; 0 if all names are short and few."""
    names = [column for column in columns if not column.rstrip("%").isdigit()]
    return 0.0 if not names or len(columns) <= 6 else max(0.0, max(map(style.text_width, names)) - 0.1)


def _labelled(columns: tuple[str, ...], places: list[float]) -> list[int]:
    """Return the indices of labelled columns: all names, but only those numbers that do not overlap."""
    numbers = [i for i, column in enumerate(columns) if column.rstrip("%").isdigit()]
    if len(numbers) < len(columns):
        step = next(s for s in (1, 2, 4, 5, 8, 10, 20, 50, 1000) if len(numbers) <= 17 * s)
        return [i for i in range(len(columns)) if i not in numbers or int(columns[i].rstrip("%")) % step == 0]
    if places == [float(column.rstrip("%")) for column in columns] and len({b - a for a, b in pairwise(places)}) == 1:
        step = next(s for s in (1, 2, 4, 5, 8, 10, 20, 50, 100, 1000) if len(places) <= 13 * s)
        return list(range(0, len(places), step))
    return _apart(places, longest=max(len(column) for column in columns))


def _split(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def positions(columns: tuple[str, ...]) -> list[float]:
    """Return the positions of columns: their numbers (`25%`, `8`) if these increase, else 0, 1, 2, ..."""
    try:
        places = [float(column.rstrip("%")) for column in columns]
    except ValueError:
        return [float(i) for i in range(len(columns))]
    rising = all(a < b for a, b in pairwise(places))
    return places if rising else [float(i) for i in range(len(columns))]


def _apart(places: list[float], longest: int) -> list[int]:
    """Return the indices of unevenly spaced columns whose labels do not overlap."""
    least, shown = (places[-1] - places[0]) * longest / 46, [len(places) - 1]
    for index in range(len(places) - 2, -1, -1):
        if places[shown[-1]] - places[index] >= least:
            shown.append(index)
    return shown[::-1]


def _legend(sheet: Sheet) -> list[Any]:
    from matplotlib.lines import Line2D

    out = [Line2D([], [], **look(index), label=name) for index, name in enumerate(sheet[0].rows)]
    if any(m.has_published for m in sheet):
        mark: dict[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "none", "linestyle": "none"}
        out.append(Line2D([], [], color=style.SOFT, label="hollow: published", **mark))
    return out
