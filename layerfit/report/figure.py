"""A table as a figure: a panel for every column, a line for every method, every seed a dot, the mean with its interval.

What a method is compared with (the model as it was, guessing) is a vertical line, not a method.
"""

from __future__ import annotations

import os
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from layerfit.report.render import title
from layerfit.report.table import Entry, RowData, TableData
from layerfit.report.units import UNITS, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette, which colour-blind readers can tell apart; blue and grey differ in lightness as well.
BEST, OTHER, REFERENCE, GUESSING, DRAFT = "#0072B2", "#7A7A7A", "#D55E00", "#999999", "#D55E00"
PANEL_WIDTH, ROW_HEIGHT, BETWEEN, LEAST_WIDTH, MOST_ACROSS = 2.45, 0.34, 0.85, 4.5, 4  # inches; panels
DASHES, DOTS = (0, (4, 2)), (0, (1, 1.6))
LEGEND: Any = {
    "bbox_to_anchor": (0.0, 0.0),
    "frameon": False,
    "fontsize": 7.5,
    "handlelength": 2.0,
    "columnspacing": 1.6,
    "handletextpad": 0.6,
}
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs everywhere
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "svg.hashsalt": "layerfit",
}


def draw(data: TableData) -> dict[str, bytes]:
    """Return the figure by file ending: `png` at 200 dpi, `pdf` with embedded fonts. No date is in them."""
    # matplotlib writes the date into a PDF unless this says otherwise.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in data.rows if row.trains] or list(data.rows)
    references = [row for row in data.rows if row not in rows]
    with matplotlib.rc_context(STYLE):
        across = min(MOST_ACROSS, len(data.columns))
        down = -(-len(data.columns) // across)
        label_width = 0.075 * max(len(row.label) for row in rows) + 0.3
        width = max(LEAST_WIDTH, label_width + PANEL_WIDTH * across)
        heading, marks = wrap(title(data), int(11 * width)), _marks(data, references)
        marks_across = min(len(marks), max(1, int(width / 1.75)))
        marks_down = -(-len(marks) // marks_across)
        top, bottom = 0.52 + 0.19 * len(heading), 0.5 + 0.2 * marks_down
        height = top + bottom + down * (ROW_HEIGHT * len(rows) + 0.1) + (down - 1) * BETWEEN
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        panels = figure.subplots(down, across, sharey=True, squeeze=False)
        for index, axes in enumerate(panels.flat):
            if index < len(data.columns):
                _panel(axes, data, index, rows, references)
            else:
                axes.set_visible(False)
        panels[0, 0].set_yticks(range(len(rows)), [row.label for row in rows])
        panels[0, 0].set_ylim(len(rows) - 0.45, -0.6)
        figure.subplots_adjust(
            left=label_width / width,
            right=1 - 0.45 / width,
            top=1 - top / height,
            bottom=bottom / height,
            wspace=0.34,
            hspace=BETWEEN / (ROW_HEIGHT * len(rows) + 0.1),
        )
        figure.text(0.1 / width, 1 - 0.14 / height, "\n".join(heading), va="top", fontsize=10, fontweight="bold")
        handles, labels = zip(*marks, strict=True)
        figure.legend(handles, labels, loc="lower left", ncols=marks_across, **LEGEND)
        if data.draft:
            figure.text(0.5, 0.5, "DRAFT", fontsize=60, color=DRAFT, alpha=0.16, rotation=18, ha="center", va="center")
        png, pdf = BytesIO(), BytesIO()
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Producer": None})
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


def _panel(axes: Axes, data: TableData, index: int, rows: list[RowData], references: list[RowData]) -> None:
    """Draw one column: reference lines, then every method."""
    shown = data.columns[index]
    unit = shown.column.unit
    scale = UNITS[unit].factor
    if shown.column.chance is not None:
        axes.axvline(scale * shown.column.chance, color=GUESSING, linewidth=0.9, linestyle=DOTS, zorder=1)
    for reference in references:
        mean = reference.entries[index].mean
        if mean is not None:
            axes.axvline(scale * mean, color=REFERENCE, linewidth=1.1, linestyle=DASHES, zorder=1)
    for y, row in enumerate(rows):
        _method(axes, row.entries[index], y, unit)
    symbol = f" ({UNITS[unit].symbol})" if UNITS[unit].symbol else ""
    axes.set_title(f"{shown.column.label}{symbol}", fontsize=9, loc="left", pad=5)
    items = f"{shown.num_items:,} items" if shown.num_items else "no items"
    axes.set_xlabel(items + ("" if shown.higher_is_better else ", lower is better"), fontsize=7.5, color="#555555")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(axis="x", color="#ECECEC", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)


def _method(axes: Axes, entry: Entry, y: int, unit: str) -> None:
    """Draw one method: interval, seeds under the line, mean, its value at the panel's right edge."""
    if entry.mean is None:
        axes.text(0.5, y, "no record", transform=axes.get_yaxis_transform(), ha="center", va="center", color=DRAFT)
        return
    color, scale = BEST if entry.bold else OTHER, UNITS[unit].factor
    if entry.interval is not None:
        low, high = (scale * bound for bound in entry.interval)
        axes.plot([low, high], [y, y], color=color, linewidth=1.5, solid_capstyle="butt", zorder=3)
    seeds = [scale * value for _, value in entry.values]
    if len(seeds) > 1:
        axes.scatter(seeds, [y + 0.26] * len(seeds), s=9, color=color, alpha=0.55, linewidths=0, zorder=2)
    axes.scatter([scale * entry.mean], [y], s=20, color=color, linewidths=0, zorder=4)
    axes.text(
        1.02,
        y,
        number(entry.mean, unit),
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        color=color,
        fontweight="bold" if entry.bold else "normal",
    )


def _marks(data: TableData, references: list[RowData]) -> list[tuple[Any, str]]:
    """Return what the marks of the figure mean."""
    from matplotlib.lines import Line2D

    entries = [entry for row in data.rows if row.trains for entry in row.entries]
    kinds = {entry.bold for entry in entries if entry.mean is not None}
    mean: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linewidth": 1.5}
    marks: list[tuple[Any, str]] = []
    if True in kinds:
        marks.append((Line2D([], [], color=BEST, **mean), "not shown worse than the best"))
    if False in kinds:
        marks.append((Line2D([], [], color=OTHER, **mean), "worse, or not tested" if True in kinds else "mean"))
    marks.append((Line2D([], [], color=OTHER, linewidth=1.5), "95% interval"))
    if any(len(entry.values) > 1 for entry in entries):
        marks.append((Line2D([], [], color=OTHER, marker="o", markersize=2.6, linewidth=0, alpha=0.6), "one seed"))
    if references:
        names = ", ".join(row.label for row in references)
        marks.append((Line2D([], [], color=REFERENCE, linewidth=1.1, linestyle=DASHES), names))
    if any(shown.column.chance is not None for shown in data.columns):
        marks.append((Line2D([], [], color=GUESSING, linewidth=0.9, linestyle=DOTS), "guessing"))
    return marks
