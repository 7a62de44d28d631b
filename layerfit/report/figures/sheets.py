"""Group the matrices of a table into figures: neighbours that share their axes and their scale."""

from __future__ import annotations

from collections.abc import Sequence

from layerfit.report.matrix import Matrix

Sheet = tuple[Matrix, ...]


def sheets(matrices: Sequence[Matrix]) -> list[Sheet]:
    """Return the figures of a table's matrices, in order; a matrix without any number is in none of them."""
    out: list[Sheet] = []
    for matrix in matrices:
        if not has_numbers(matrix):
            continue
        if out and _together(out[-1][0], matrix):
            out[-1] += (matrix,)
        else:
            out.append((matrix,))
    return out


def has_numbers(matrix: Matrix) -> bool:
    """Return whether a matrix has any number, ours or published."""
    rows = (*matrix.values, *(matrix.published or ()))
    return any(value is not None for row in rows for value in row)


def _together(first: Matrix, other: Matrix) -> bool:
    """Return whether two matrices are panels of one figure: same kind, axes and scale."""

    def key(m: Matrix) -> tuple[object, ...]:
        axes = (m.drawing, m.row_name, m.column_name, m.value_name, m.log, m.decimals)
        # Panels with the same rows share a legend; a heat map labels its rows beside each panel.
        return (*axes, len(m.columns) > WIDE, *((m.columns,) if m.drawing == "heatmap" else (m.rows,)))

    return key(first) == key(other)


WIDE = 13
"""A heat map with more columns than this takes the page's whole width."""
