"""A table as a figure: a panel for every column, a line for every method, every seed a dot, the mean with its interval.

References (the untrained model, guessing) are vertical lines. Groups are set apart, each with the line of its own
model. Published numbers are hollow.
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
LINES = ((10, 0.29), (16, 0.2), (10_000, 0.16))  # (maximum number of lines, inches per line)
MOST_ROWS = 60
OWN_AXIS = 3  # minimum number of rows for a group to have its own axis
MOST_WIDE, LEAST_WIDE, VALUE = 2.3, 1.05, 0.42  # inches of a panel; of the number at its right
BETWEEN, BELOW, GROUP_GAP = 0.72, 0.3, 0.5  # inches between panels, and of an axis' numbers; lines between groups
NONE = "no record"


@dataclass(frozen=True)
class Layout:
    """Positions of rows. lines: row -> y. heads: group -> y of its name. spans: group -> first and last y."""

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
    """Return the columns with a panel: those with our numbers, or published ones that are drawn.

    Empty if the rows would fill pages and matrices show them.
    """
    if len(data.rows) > MOST_ROWS and data.matrices:
        return []
    return [i for i, shown in enumerate(data.columns) if shown.column.hole is None or _has_published(data, i)]


def _has_published(data: TableData, index: int) -> bool:
    # A profile's rows are other models than the published ones: on one axis they would be compared.
    return not data.name.endswith(PROFILE) and any(row.entries[index].published for row in data.rows)


def layout(data: TableData, *, one_line: bool) -> list[Layout]:
    """Return the positions of the drawn rows: those that train or are published only; all, if there are none.

    one_line: all panels are side by side. Groups of several rows then have an axis each: they are not compared.
    """
    with_published = any(_has_published(data, i) for i in range(len(data.columns)))
    rows = [row for row in data.rows if row.trains or (row.hole is not None and with_published)] or list(data.rows)
    references = [row for row in data.rows if row not in rows and row.hole is None]
    groups: dict[str, list[RowData]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    apart = one_line and len(groups) > 1 and min(map(len, groups.values())) >= OWN_AXIS
    parts = [{group: found} for group, found in groups.items()] if apart else [groups]
    return [_placed(part, [r for r in references if r.group in part or not apart], with_published) for part in parts]


def _placed(groups: dict[str, list[RowData]], references: list[RowData], with_published: bool) -> Layout:
    lines: list[tuple[RowData, float]] = []
    heads: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}
    y = 0.0
    for group, rows in groups.items():
        y += GROUP_GAP if lines else 0
        if group:
            heads[group] = y
            y += 1
        lines += [(row, y + i) for i, row in enumerate(rows)]
        spans[group] = (y, y + len(rows) - 1)
        y += len(rows)
    return Layout(tuple(lines), heads, spans, tuple(references), with_published)


def draw(data: TableData) -> Figure:
    """Return the figure of a table's columns."""
    shown = columns(data)
    left = 0.22 + max(style.text_width(name, style.NORMAL) for row in data.rows for name in (row.short, row.group, " "))
    across = _across(len(shown), left)
    panel = min(MOST_WIDE, (style.PAGE - left) / across)
    down = -(-len(shown) // across)
    parts = layout(data, one_line=down == 1)
    line = next(size for most, size in LINES if sum(len(part.lines) for part in parts) <= most)
    heights = [line * (part.bottom + 1.1) for part in parts]
    width = max(4.0, left + panel * across)
    heading, marks = style.lines_of(title(data), width - 0.2, style.LARGE * 1.05), _marks(data, parts, shown)
    marks_across = min(len(marks), max(1, int(width / (0.45 + max(style.text_width(m[1], 7.0) for m in marks)))))
    top, bottom = 0.42 + 0.17 * len(heading), 0.42 + 0.17 * -(-len(marks) // marks_across)
    height = top + bottom + down * (sum(heights) + BELOW * (len(parts) - 1)) + (down - 1) * BETWEEN
    figure = style.new_figure(width, height)
    for place, index in enumerate(shown):
        row, at = divmod(place, across)
        y = height - top - row * (sum(heights) + BETWEEN)
        for part, tall in zip(parts, heights, strict=True):
            y -= tall
            box = ((left + at * panel) / width, y / height, (panel - VALUE) / width, tall / height)
            axes = figure.add_axes(box)
            _panel(axes, data, index, part, first=part is parts[0], last=part is parts[-1])
            _names(axes, part, named=at == 0)
            y -= BELOW
    figure.text(0.08 / width, 1 - 0.1 / height, "\n".join(heading), va="top", fontsize=style.LARGE, fontweight="bold")
    handles, labels = zip(*marks, strict=True)
    figure.legend(
        handles, labels, loc="lower left", ncols=marks_across, bbox_to_anchor=(0.05 / width, 0.03 / height),
        fontsize=7.0, handlelength=2.0, columnspacing=1.4, handletextpad=0.5, borderaxespad=0.0,
    )  # fmt: skip
    style.stamp(figure, data.draft)
    return figure


def _across(count: int, left: float) -> int:
    """Return the number of panels side by side: rows of equal length, each panel wide enough."""
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


def _panel(axes: Axes, data: TableData, index: int, placed: Layout, *, first: bool, last: bool) -> None:
    """Draw one column: reference lines, then every method."""
    axes.margins(x=0.08)
    shown = data.columns[index]
    unit = shown.column.unit
    scale = UNITS[unit].factor
    for reference in placed.references:
        mean = reference.entries[index].mean
        start, end = placed.spans.get(reference.group, (0.0, placed.bottom))
        if mean is not None:
            axes.plot([scale * mean] * 2, [start - 0.5, end + 0.5], color=REFERENCE, lw=1.0, linestyle=DASHES, zorder=1)
    for row, y in placed.lines:
        _method(axes, row, index, y, unit, with_published=placed.with_published)
    if shown.column.chance is not None:
        _guessing(axes, scale * shown.column.chance)
    symbol = f" ({UNITS[unit].symbol})" if UNITS[unit].symbol else ""
    axes.set_title(f"{shown.column.label}{symbol}{shown.mark}" if first else "")
    items = f"{shown.num_items:,} items" if shown.num_items else ""
    lower = "" if shown.higher_is_better else "lower is better"
    below = ", ".join(text for text in (items, lower) if text) if last else ""
    axes.set_xlabel(below, fontsize=style.SMALL, color=style.SOFT)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=style.GRID, linewidth=0.6)
    axes.locator_params(axis="x", nbins=4)


def _guessing(axes: Axes, chance: float) -> None:
    """Draw the line of guessing, or write it at the edge if the line would leave the methods no room."""
    low, high = axes.get_xlim()
    if low - 0.5 * (high - low) <= chance <= high + 0.5 * (high - low) or not axes.has_data():
        axes.axvline(chance, color=GUESSING, linewidth=0.9, linestyle=DOTS, zorder=1)
        return
    left = chance < low
    text = f"\N{LEFTWARDS ARROW} {chance:g}" if left else f"{chance:g} \N{RIGHTWARDS ARROW}"
    axes.text(
        0.0 if left else 1.0, -0.3, text, transform=axes.get_yaxis_transform(), ha="left" if left else "right",
        va="center", fontsize=style.SMALL, color=GUESSING,
    )  # fmt: skip


def _method(axes: Axes, row: RowData, index: int, y: float, unit: str, *, with_published: bool) -> None:
    """Draw one method: interval, seeds under the line, mean, published number, value at the panel's right edge."""
    entry, scale = row.entries[index], UNITS[unit].factor
    theirs = entry.published if with_published else None
    if theirs is not None:
        above = 0 if entry.mean is None else 0.27  # of our own marks
        axes.plot(
            theirs.value, y - above, "D", markersize=3.2, markerfacecolor="none", color=style.INK, mew=0.8, zorder=5
        )
    if entry.mean is None:
        if theirs is not None:
            _value(axes, y, f"({theirs.text})", style.SOFT)
        elif row.hole is None:
            axes.text(
                0.5, y, NONE, transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=style.SMALL,
                color=REFERENCE, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        return
    color = BEST if entry.bold else OTHER
    if entry.interval is not None:
        low, high = (scale * bound for bound in entry.interval)
        if unit == "percent":  # with two seeds an interval can exceed the scale: clip it
            low, high = max(low, 0.0), min(high, 100.0)
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


def _marks(data: TableData, parts: list[Layout], shown: list[int]) -> list[tuple[Any, str]]:
    """Return the legend of the figure's marks."""
    from matplotlib.lines import Line2D

    entries: list[Entry] = [row.entries[i] for part in parts for row, _ in part.lines for i in shown]
    references = [row for part in parts for row in part.references]
    kinds = {entry.bold for entry in entries if entry.mean is not None}
    mean: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.4}
    marks: list[tuple[Any, str]] = []
    if True in kinds:
        best = "not shown worse than the best" + (" of its group" if sum(len(part.spans) for part in parts) > 1 else "")
        marks.append((Line2D([], [], color=BEST, **mean), best))
    if False in kinds:
        marks.append((Line2D([], [], color=OTHER, **mean), "worse, or not tested" if True in kinds else "mean"))
    if any(entry.interval is not None for entry in entries):
        marks.append((Line2D([], [], color=OTHER, linewidth=1.4), "95% interval"))
    if any(len(entry.values) > 1 for entry in entries):
        marks.append((Line2D([], [], color=OTHER, marker="o", markersize=2.4, linewidth=0, alpha=0.6), "one seed"))
    if parts[0].with_published:
        mark: dict[str, Any] = {"markersize": 3.2, "markerfacecolor": "none", "mew": 0.8, "linestyle": "none"}
        marks.append((Line2D([], [], color=style.INK, marker="D", **mark), "published"))
    if any(row.entries[i].mean is not None for row in references for i in shown):
        names = ", ".join(dict.fromkeys(row.short or row.label for row in references))
        marks.append((Line2D([], [], color=REFERENCE, linewidth=1.0, linestyle=DASHES), names))
    if any(data.columns[i].column.chance is not None for i in shown):
        marks.append((Line2D([], [], color=GUESSING, linewidth=0.9, linestyle=DOTS), "guessing (arrow: off the axis)"))
    return marks or [(Line2D([], [], linewidth=0), NONE)]
