"""Numbers under a table that no single record holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """What a view computed from the findings of a table's runs. None: not known.

    drawing: heatmap, lines (one line per row over the columns), bars or stacked. printed: False for what is too large
    to print and is drawn only. log: logarithmic value axis.
    """

    title: str
    row_name: str
    column_name: str
    value_name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    drawing: str
    published: tuple[tuple[float | None, ...], ...] | None = None
    decimals: int = 2
    printed: bool = True
    log: bool = False
    notes: tuple[str, ...] = ()

    @property
    def has_published(self) -> bool:
        """Return whether a published number stands beside any of ours."""
        return any(value is not None for row in self.published or () for value in row)
