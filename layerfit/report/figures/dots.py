"""A table as a figure: a panel for every column, a line for every method, every seed a dot, the mean with its interval.

What a method is compared with (the model as it was, guessing) is a vertical line, not a method. Groups stand apart,
each with the line of its own model. Published numbers are hollow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerfit.report.figures import style
from layerfit.report.render import title
from layerfit.report.spec import PROFILE
from layerfit.report.table import Entry, RowData, TableData
from layerfit.report.units import UNITS, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, OTHER, REFERENCE, GUESSING = style.COLORS[1], "#757575", style.COLORS[2], "#8C8C8C"
DASHES, DOTS = (0, (4, 2)), (0, (1, 1.6))
ROOMY, TIGHT, MANY = 0.29, 0.2, 10  # inches of a line, with up to MANY of them and with more
MOST_WIDE, LEAST_WIDE, VALUE = 2.3, 1.05, 0.42  # inches of a panel; of the number at its right
BETWEEN, GROUP_GAP = 0.72, 0.5  # inches between panels; lines between groups
NONE = "no record"


@dataclass(frozen=True)
class Layout:
    """Where rows stand. lines: row -> y. heads: group -> y of its name. spans: group -> first and last y."""

    lines: tuple[tuple[RowData, float], ...]
    heads: dict[str, float]
    spans: dict[str, tuple[float, float]]
    references: tuple[RowData, ...]
    with_published: bool

    @property
    def bottom(self) -> float:
        """Return the last line's y."""
        return self.lines[-1][1]


def columns(data: TableData) -> list[int]:
    """Return the columns that have a panel: those with numbers of ours, or published ones that are drawn."""
    return [i for i, shown in enumerate(data.columns) if shown.column.hole is None or _has_published(data, i)]


def _has_published(data: TableData, index: int) -> bool:
    # A profile's rows are other models than the published ones: on one axis they would be compared.
    return not data.name.endswith(PROFILE) and any(row.entries[index].published for row in data.rows)


def layout(data: TableData) -> Layout:
    """Return which rows are drawn where: those that train or are published only; all, if there are none."""
    with_published = any(_has_published(data, i) for i in range(len(data.columns)))
    rows = [row for row in data.rows if row.trains or (row.hole is not None and with_published)] or list(data.rows)
    references = tuple(row for row in data.rows if row not in rows and row.hole is None)
    lines: list[tuple[RowData, float]] = []
    heads: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}
    y, group = 0.0, None
    for row in rows:
        if row.group != group:
            y += GROUP_GAP if group is not None else 0
            if row.group:
                heads[row.group] = y
                y += 1
            group = row.group
        lines.append((row, y))
        spans[row.group] = (spans.get(row.group, (y, y))[0], y)
        y += 1
    return Layout(tuple(lines), heads, spans, references, with_published)


def draw(data: TableData) -> Figure:
    """Return the figure of a table's columns."""
    placed, shown = layout(data), columns(data)
    names = max(style.text_width(row.short or row.label, style.NORMAL) for row, _ in placed.lines)
    left = 0.22 + max(names, *(style.text_width(head, style.NORMAL) for head in placed.heads), 0.2)
    across = _across(len(shown), left)
    panel = min(MOST_WIDE, (style.PAGE - left) / across)
    down, line = -(-len(shown) // across), ROOMY if len(placed.lines) <= MANY else TIGHT
    width = max(4.0, left + panel * across)
    heading, marks = style.lines_of(title(data), width - 0.2, style.LARGE * 1.05), _marks(data, placed, shown)
    marks_across = min(len(marks), max(1, int(width / (0.45 + max(style.text_width(m[1], 7.0) for m in marks)))))
    top, bottom = 0.42 + 0.17 * len(heading), 0.42 + 0.17 * -(-len(marks) // marks_across)
    tall = line * (placed.bottom + 1.1)
    height = top + bottom + down * tall + (down - 1) * BETWEEN
    figure = style.new_figure(width, height)
    for place, index in enumerate(shown):
        row, at = divmod(place, across)
        x, y = left + at * panel, height - top - row * (tall + BETWEEN) - tall
        axes = figure.add_axes((x / width, y / height, (panel - VALUE) / width, tall / height))
        _panel(axes, data, index, placed)
        _names(axes, placed, named=at == 0)
    figure.text(0.08 / width, 1 - 0.1 / height, "\n".join(heading), va="top", fontsize=style.LARGE, fontweight="bold")
    handles, labels = zip(*marks, strict=True)
    figure.legend(
        handles, labels, loc="lower left", ncols=marks_across, bbox_to_anchor=(0.05 / width, 0.03 / height),
        fontsize=7.0, handlelength=2.0, columnspacing=1.4, handletextpad=0.5, borderaxespad=0.0,
    )  # fmt: skip
    style.stamp(figure, data.draft)
    return figure


def _across(count: int, left: float) -> int:
    """Return how many panels stand side by side: rows of equal length, each panel wide enough."""
    most = max(1, int((style.PAGE - left) / (LEAST_WIDE + (0.35 if count <= 8 else 0))))
    down = -(-count // most)
    return -(-count // down)


def _names(axes: Axes, placed: Layout, *, named: bool) -> None:
    labels = [row.short or row.label for row, _ in placed.lines]
    axes.set_yticks([y for _, y in placed.lines], labels if named else [""] * len(labels), fontsize=style.NORMAL)
    axes.set_ylim(placed.bottom + 0.5, -0.6)
    for head, y in placed.heads.items():
        if named:
            axes.annotate(
                head, (0, y), xycoords=axes.get_yaxis_transform(), xytext=(-3.5, 0), textcoords="offset points",
                ha="right", va="center", fontsize=style.NORMAL, fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        axes.axhline(y - 0.5 * (1 + GROUP_GAP), color=style.GRID, linewidth=0.8, zorder=0) if y > 0 else None


def _panel(axes: Axes, data: TableData, index: int, placed: Layout) -> None:
    """Draw one column: reference lines, then every method."""
    shown = data.columns[index]
    unit = shown.column.unit
    scale = UNITS[unit].factor
    if shown.column.chance is not None:
        axes.axvline(scale * shown.column.chance, color=GUESSING, linewidth=0.9, linestyle=DOTS, zorder=1)
    for reference in placed.references:
        mean = reference.entries[index].mean
        first, last = placed.spans.get(reference.group, (0.0, placed.bottom))
        if mean is not None:
            axes.plot(
                [scale * mean] * 2, [first - 0.5, last + 0.5], color=REFERENCE, lw=1.0, linestyle=DASHES, zorder=1
            )
    for row, y in placed.lines:
        _method(axes, row, index, y, unit, with_published=placed.with_published)
    symbol = f" ({UNITS[unit].symbol})" if UNITS[unit].symbol else ""
    axes.set_title(f"{shown.column.label}{symbol}")
    items = f"{shown.num_items:,} items" if shown.num_items else ""
    lower = "" if shown.higher_is_better else "lower is better"
    axes.set_xlabel(", ".join(text for text in (items, lower) if text), fontsize=style.SMALL, color=style.SOFT)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=style.GRID, linewidth=0.6)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=4)


def _method(axes: Axes, row: RowData, index: int, y: float, unit: str, *, with_published: bool) -> None:
    """Draw one method: interval, seeds under the line, mean, what is published, its value at the panel's right edge."""
    entry, scale = row.entries[index], UNITS[unit].factor
    theirs = entry.published if with_published else None
    if theirs is not None:
        axes.plot(theirs.value, y, "D", markersize=4, markerfacecolor="none", color=style.INK, mew=0.8, zorder=5)
    if entry.mean is None:
        text = NONE if row.hole is None and theirs is None else f"({theirs.text})" if theirs is not None else ""
        _value(axes, y, text, style.SOFT if theirs else REFERENCE)
        return
    color = BEST if entry.bold else OTHER
    if entry.interval is not None:
        low, high = (scale * bound for bound in entry.interval)
        axes.plot([low, high], [y, y], color=color, linewidth=1.4, solid_capstyle="butt", zorder=3)
    seeds = [scale * value for _, value in entry.values]
    if len(seeds) > 1:
        axes.scatter(seeds, [y + 0.28] * len(seeds), s=6, color=color, alpha=0.55, linewidths=0, zorder=2)
    axes.scatter([scale * entry.mean], [y], s=15, color=color, linewidths=0, zorder=4)
    _value(axes, y, number(entry.mean, unit), color, bold=entry.bold)


def _value(axes: Axes, y: float, text: str, color: str, *, bold: bool = False) -> None:
    short = text.partition(" ±")[0] + (")" if text.startswith("(") and "±" in text else "")
    weight = "bold" if bold else "normal"
    place = axes.get_yaxis_transform()
    axes.text(1.02, y, short, transform=place, va="center", fontsize=style.SMALL, color=color, fontweight=weight)


def _marks(data: TableData, placed: Layout, shown: list[int]) -> list[tuple[Any, str]]:
    """Return what the marks of the figure mean."""
    from matplotlib.lines import Line2D

    entries: list[Entry] = [row.entries[i] for row, _ in placed.lines for i in shown]
    kinds = {entry.bold for entry in entries if entry.mean is not None}
    mean: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.4}
    marks: list[tuple[Any, str]] = []
    if True in kinds:
        best = "not shown worse than the best" + (" of its group" if len(placed.spans) > 1 else "")
        marks.append((Line2D([], [], color=BEST, **mean), best))
    if False in kinds:
        marks.append((Line2D([], [], color=OTHER, **mean), "worse, or not tested" if True in kinds else "mean"))
    if any(entry.interval is not None for entry in entries):
        marks.append((Line2D([], [], color=OTHER, linewidth=1.4), "95% interval"))
    if any(len(entry.values) > 1 for entry in entries):
        marks.append((Line2D([], [], color=OTHER, marker="o", markersize=2.4, linewidth=0, alpha=0.6), "one seed"))
    if placed.with_published:
        mark: dict[str, Any] = {"markersize": 4, "markerfacecolor": "none", "mew": 0.8, "linestyle": "none"}
        marks.append((Line2D([], [], color=style.INK, marker="D", **mark), "published"))
    if any(row.entries[i].mean is not None for row in placed.references for i in shown):
        names = ", ".join(dict.fromkeys(row.short or row.label for row in placed.references))
        marks.append((Line2D([], [], color=REFERENCE, linewidth=1.0, linestyle=DASHES), names))
    if any(data.columns[i].column.chance is not None for i in shown):
        marks.append((Line2D([], [], color=GUESSING, linewidth=0.9, linestyle=DOTS), "guessing"))
    return marks or [(Line2D([], [], linewidth=0), NONE)]
