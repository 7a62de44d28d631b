"""A table as a figure: a panel for every column, a line for every method, every seed a dot, the mean with its interval.

What a method is compared with (the model as it was, guessing) is a vertical line, not a method.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import TYPE_CHECKING, Any

from layerfit.report.render import score, title
from layerfit.report.table import Entry, RowData, TableData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette, which colour-blind readers can tell apart; blue and grey differ in lightness as well.
BEST, OTHER, REFERENCE, GUESSING, DRAFT = "#0072B2", "#7A7A7A", "#D55E00", "#999999", "#D55E00"
PANEL_WIDTH, ROW_HEIGHT, MARGIN_HEIGHT = 2.45, 0.34, 1.25  # inches
STYLE: dict[str, Any] = {
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
        label_width = 0.075 * max(len(row.label) for row in rows) + 0.25
        width = label_width + PANEL_WIDTH * len(data.columns)
        height = MARGIN_HEIGHT + ROW_HEIGHT * len(rows) + 0.25
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(data.columns), sharey=True, squeeze=False)[0]
        for index, axes in enumerate(panels):
            _panel(axes, data, index, rows, references)
        panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
        panels[0].set_ylim(len(rows) - 0.45, -0.6)
        _legend(figure, data, references)
        figure.subplots_adjust(
            left=label_width / width, right=1 - 0.42 / width, top=1 - 0.68 / height, bottom=0.72 / height, wspace=0.34
        )
        heading = title(data)
        figure.text(0.08 / width, 1 - 0.16 / height, heading, va="top", fontsize=10, fontweight="bold")
        if data.draft:
            figure.text(0.5, 0.5, "DRAFT", fontsize=60, color=DRAFT, alpha=0.16, rotation=18, ha="center", va="center")
        png, pdf = BytesIO(), BytesIO()
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Producer": None})
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


def _panel(axes: Axes, data: TableData, index: int, rows: list[RowData], references: list[RowData]) -> None:
    """Draw one column: reference lines, then every method."""
    shown = data.columns[index]
    scale = 100.0 if shown.column.percent else 1.0
    if shown.column.chance is not None:
        axes.axvline(scale * shown.column.chance, color=GUESSING, linewidth=0.9, linestyle=(0, (1, 1.6)), zorder=1)
    for reference in references:
        mean = reference.entries[index].mean
        if mean is not None:
            axes.axvline(scale * mean, color=REFERENCE, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    for y, row in enumerate(rows):
        _method(axes, row.entries[index], y, scale, percent=shown.column.percent)
    unit = " (%)" if shown.column.percent else ""
    axes.set_title(f"{shown.column.label}{unit}", fontsize=9, loc="left", pad=5)
    items = f"{shown.num_items:,} items" if shown.num_items else "no items"
    axes.set_xlabel(items + ("" if shown.higher_is_better else ", lower is better"), fontsize=7.5, color="#555555")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(axis="x", color="#ECECEC", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)


def _method(axes: Axes, entry: Entry, y: int, scale: float, *, percent: bool) -> None:
    """Draw one method: interval, seeds under the line, mean, its value at the panel's right edge."""
    if entry.mean is None:
        axes.text(0.5, y, "no record", transform=axes.get_yaxis_transform(), ha="center", va="center", color=DRAFT)
        return
    color = BEST if entry.bold else OTHER
    if entry.interval is not None:
        low, high = (scale * bound for bound in entry.interval)
        axes.plot([low, high], [y, y], color=color, linewidth=1.7, solid_capstyle="butt", zorder=3)
    seeds = [scale * value for _, value in entry.values]
    if len(seeds) > 1:
        axes.scatter(seeds, [y + 0.26] * len(seeds), s=9, color=color, alpha=0.55, linewidths=0, zorder=2)
    axes.scatter([scale * entry.mean], [y], s=26, color=color, edgecolors="white", linewidths=0.7, zorder=4)
    axes.text(
        1.02,
        y,
        score(entry.mean, percent=percent),
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        color=color,
        fontweight="bold" if entry.bold else "normal",
    )


def _legend(figure: Any, data: TableData, references: list[RowData]) -> None:
    """Say what the marks mean, in one line under the panels."""
    from matplotlib.lines import Line2D

    marks: list[tuple[Any, str]] = []
    entries = [entry for row in data.rows if row.trains for entry in row.entries]
    if any(entry.bold for entry in entries):
        dot = {"marker": "o", "markersize": 5, "linewidth": 1.7}
        marks.append((Line2D([], [], color=BEST, **dot), "not shown worse than the best"))
        if not all(entry.bold for entry in entries if entry.mean is not None):
            marks.append((Line2D([], [], color=OTHER, **dot), "worse, or not tested"))
    else:
        marks.append((Line2D([], [], color=OTHER, marker="o", markersize=5, linewidth=1.7), "mean, 95% interval"))
    if any(len(entry.values) > 1 for entry in entries):
        marks.append((Line2D([], [], color=OTHER, marker="o", markersize=2.6, linewidth=0, alpha=0.6), "one seed"))
    if references:
        label = ", ".join(row.label for row in references)
        marks.append((Line2D([], [], color=REFERENCE, linewidth=1.1, linestyle=(0, (4, 2))), label))
    if any(shown.column.chance is not None for shown in data.columns):
        marks.append((Line2D([], [], color=GUESSING, linewidth=0.9, linestyle=(0, (1, 1.6))), "guessing"))
    handles, labels = zip(*marks, strict=True)
    figure.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=len(marks),
        frameon=False,
        fontsize=7.5,
        handlelength=2.0,
        columnspacing=1.6,
        handletextpad=0.6,
    )
