"""Which matrices of a table are drawn in one figure: neighbours that share their axes and their scale."""

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
    """Return whether anything is known, of ours or published."""
    rows = (*matrix.values, *(matrix.published or ()))
    return any(value is not None for row in rows for value in row)


def _together(first: Matrix, other: Matrix) -> bool:
    """Return whether two matrices are panels of one figure: same kind, axes and scale."""

    def key(m: Matrix) -> tuple[object, ...]:
        axes = (m.drawing, m.row_name, m.column_name, m.value_name, m.log, m.decimals)
        # One legend serves panels of one set of rows; a heat map names its rows beside each panel.
        return (*axes, len(m.columns) > WIDE, *((m.columns,) if m.drawing == "heatmap" else (m.rows,)))

    return key(first) == key(other)


WIDE = 13
"""More columns than this and a heat map takes the page's whole width."""
