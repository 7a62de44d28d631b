"""Greedy removal of units from a trained model, least important first (IST's preliminary observation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def remove_greedily(units: Sequence[str], loss: Callable[[frozenset[str]], float]) -> tuple[list[str], list[float]]:
    """Remove in every round the unit whose removal gives the lowest loss; the earlier unit wins a tie.

    Args:
        units: the units to remove, without duplicates.
        loss: the loss without a set of units; called once for every set, N (N + 1) / 2 + 1 times.

    Returns:
        The units in the order of their removal, and N + 1 losses: with all, without the first, ..., without any.
    """
    removed: list[str] = []
    losses = [loss(frozenset())]
    while len(removed) < len(units):
        tried = {unit: loss(frozenset([*removed, unit])) for unit in units if unit not in removed}
        best = min(tried, key=tried.__getitem__)
        removed.append(best)
        losses.append(tried[best])
    return removed, losses
