"""Matrices as figures: one for neighbours that share axes and scale (`sheets`), numbered in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerfit.report.figures import style
from layerfit.report.figures.sheets import Sheet, sheets
from layerfit.report.matrix import Matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(matrices: Sequence[Matrix], *, draft: bool = False) -> dict[str, bytes]:
    """Return the figures of a table's matrices by file ending: `1.png`, `1.pdf`, `2.png`, ...

    Raises:
        ValueError: if a matrix has an unknown `drawing`.
    """
    out: dict[str, bytes] = {}
    for index, sheet in enumerate(sheets(matrices), start=1):
        out |= {f"{index}.{kind}": data for kind, data in style.styled(lambda s=sheet: _figure(s, draft)).items()}  # type: ignore[misc]
    return out


def _figure(sheet: Sheet, draft: bool) -> Figure:
    from layerfit.report.figures import bars, heatmap, lines

    kinds = {"heatmap": heatmap.draw, "lines": lines.draw, "bars": bars.draw, "stacked": bars.draw}
    if sheet[0].drawing not in kinds:
        raise ValueError(f"drawing={sheet[0].drawing!r} is no drawing; allowed: {', '.join(kinds)}")
    figure = kinds[sheet[0].drawing](sheet)
    style.stamp(figure, draft)
    return figure
