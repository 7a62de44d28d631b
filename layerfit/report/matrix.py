"""The numbers under a table that no single record holds, as views compute them and figures draw them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """Numbers under a table that no single record holds: what a view computed from findings. None: not known."""

    title: str
    row_name: str  # axis names
    column_name: str
    value_name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    drawing: str  # heatmap | lines | bars | stacked: how report/figures draw it. lines: one line per row over columns
    published: tuple[tuple[float | None, ...], ...] | None = None
    decimals: int = 2
    printed: bool = True  # False: too large to print (a layer x step raster); drawn only
    log: bool = False  # logarithmic value axis
    notes: tuple[str, ...] = ()
