"""Bytes as text."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def show(num_bytes: int, decimals: int = 1) -> str:
    """Return a size in the unit in which its number is from 1 to 1,023: `0 B`, `1.5 GiB`."""
    size, power = float(num_bytes), 0
    while round(size, decimals) >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.{decimals if power else 0}f} {_UNITS[power]}"


def show_both(one: int, other: int) -> tuple[str, str]:
    """Return two sizes with as many decimals as tell them apart."""
    texts = ((show(one, decimals), show(other, decimals)) for decimals in range(1, 10))
    return next((pair for pair in texts if pair[0] != pair[1] or one == other), (f"{one} B", f"{other} B"))
