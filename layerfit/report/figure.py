"""A table's figures: its columns as dots with intervals, then the matrices under it, numbered."""

from __future__ import annotations

from layerfit.report import figures
from layerfit.report.figures import style
from layerfit.report.table import TableData


def draw(data: TableData) -> dict[str, bytes]:
    """Return a table's figures by file ending: `png` (200 dpi) and `pdf` (fonts embedded) of its columns, `1.png`,
    `1.pdf`, ... of its matrices. The same data gives the same bytes: no date is in them.

    A table all of whose columns are holes has no figure of them.
    """
    from layerfit.report.figures import dots

    of_columns = style.styled(lambda: dots.draw(data)) if dots.columns(data) else {}
    return {**of_columns, **figures.draw(data.matrices, draft=data.draft)}
