"""A table's figures: its columns as dots with intervals, then the matrices under it, numbered."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from layerfit.files.shown import one_line
from layerfit.report import figures
from layerfit.report.figures import style
from layerfit.report.spec import PROFILE
from layerfit.report.table import TableData


def draw(data: TableData) -> dict[str, bytes]:
    """Return a table's figures by file ending: `png` (200 dpi) and `pdf` (fonts embedded) of its columns, `1.png`,
    `1.pdf`, ... of its matrices. The same data gives the same bytes: no date is in them.

    The figure of the columns is left out if no column has numbers, and for a search of hundreds of rows, which the
    matrices show.
    """
    from layerfit.report.figures import dots

    data = _harmless(data)
    # A profile's models are not the published ones: on one axis they would be compared.
    ours = [replace(m, published=None) if data.name.endswith(PROFILE) else m for m in data.matrices]
    of_columns = style.styled(lambda: dots.draw(data)) if dots.columns(data) else {}
    return {**of_columns, **figures.draw(ours, draft=data.draft)}


def _harmless(value: Any) -> Any:
    """Return data with every text as one line that can be drawn."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, tuple):
        return tuple(map(_harmless, value))
    if isinstance(value, dict):
        return {_harmless(key): _harmless(one) for key, one in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{f.name: _harmless(getattr(value, f.name)) for f in fields(value) if f.init})
