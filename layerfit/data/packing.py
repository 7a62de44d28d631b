"""Packing: several whole examples in one row, without attention between them."""

from __future__ import annotations

import numpy as np


def first_fit(lengths: list[int], capacity: int) -> list[tuple[int, ...]]:
    """Return rows of indices: each item, in order, goes into the first row that still has room (first fit).

    Args:
        lengths: tokens of each item, none above `capacity`.
        capacity: tokens a row holds.
    """
    rows: list[list[int]] = []
    room = np.zeros(max(len(lengths), 1), dtype=np.int64)
    for index, length in enumerate(lengths):
        assert 0 < length <= capacity, (length, capacity)
        fits = room[: len(rows)] >= length
        row = int(fits.argmax()) if fits.any() else len(rows)
        if row == len(rows):
            rows.append([])
            room[row] = capacity
        rows[row].append(index)
        room[row] -= length
    return [tuple(row) for row in rows]
