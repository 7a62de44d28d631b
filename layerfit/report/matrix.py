"""Matrices under a table: numbers computed from several records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """Result of a view, from the findings of a table's runs. None: not known.

    drawing: heatmap, lines (one line per row over the columns), bars or stacked. printed: False if it is too large to
    print and only drawn. log: logarithmic value axis.
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
        """Return whether any of our numbers has a published one beside it."""
        return any(value is not None for row in self.published or () for value in row)
