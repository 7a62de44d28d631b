"""The matrices under a table as HTML; heat maps are shaded."""

from __future__ import annotations

from layerfit.page.tags import Markup, folded, listing, tag
from layerfit.report import render
from layerfit.report.matrix import Matrix

MOST_LINES = 16
"""A longer matrix is folded, since its figure is easier to read."""


def section(matrix: Matrix) -> Markup:
    """Return a matrix with its title and notes."""
    what = tag("p", f"{matrix.value_name}, {matrix.row_name} x {matrix.column_name}.", class_="meta")
    if not matrix.printed:
        body = tag("p", f"{len(matrix.rows)} x {len(matrix.columns)} numbers, drawn in the figure only.", class_="meta")
    elif len(matrix.rows) > MOST_LINES:
        body = folded(f"Show the {len(matrix.rows)} x {len(matrix.columns)} numbers", grid(matrix))
    else:
        body = grid(matrix)
    notes = listing(matrix.notes, class_="meta") if matrix.notes else None
    return tag("div", tag("h3", matrix.title), what, body, notes, class_="under")


def grid(matrix: Matrix) -> Markup:
    """Return the numbers; in a heat map each is shaded by its position between the smallest and the largest."""
    laid = render.matrix_grid(matrix)
    known = [value for row in matrix.values for value in row if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    ours = dict(zip(matrix.rows, matrix.values, strict=True)) if matrix.drawing == "heatmap" else {}
    lines = []
    for line in laid.lines:
        values = ours.get(line[0].text, (None,) * len(matrix.columns))
        cells = [tag("td", t.text, style=_shade(v, low, high)) for t, v in zip(line[1:], values, strict=True)]
        lines.append(tag("tr", tag("th", line[0].text, scope="row"), cells))
    heads = tag("tr", [tag("th", text, scope="col") for text in laid.heads])
    table = tag("table", tag("thead", heads), tag("tbody", lines), class_="matrix")
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=matrix.title)


def _shade(value: float | None, low: float, high: float) -> str | None:
    return None if value is None or high == low else f"--heat:{(value - low) / (high - low):.2f}"
