"""Units of printed numbers: factor, decimals and symbol."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """factor: multiplies a record's number. symbol: '' where the label suffices."""

    factor: float
    decimals: int
    symbol: str


UNITS = {
    "percent": Unit(100.0, 1, "%"),
    "plain": Unit(1.0, 2, ""),
    "share": Unit(1.0, 3, ""),
    "count": Unit(1.0, 0, ""),
    "gib": Unit(1 / 2**30, 1, "GiB"),
    "gb": Unit(1e-9, 1, "GB"),
    "mib": Unit(1 / 2**20, 1, "MiB"),
    "s": Unit(1.0, 2, "s"),
    "ms": Unit(1e3, 1, "ms"),
}


def number(value: float, unit: str) -> str:
    """Return a record's number as printed: a share in percent with one decimal, bytes in GiB, ..."""
    return f"{UNITS[unit].factor * value:.{UNITS[unit].decimals}f}"
