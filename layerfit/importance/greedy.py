"""Greedy removal: which units a trained model misses least, one after another (IST's preliminary observation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def remove_greedily(units: Sequence[str], loss: Callable[[frozenset[str]], float]) -> tuple[list[str], list[float]]:
    """Remove units one by one, in every round the one without which the loss is lowest; ties go to the earlier unit.

    Args:
        units: what can be removed, each once.
        loss: the loss without a set of units; asked once for every set, N (N + 1) / 2 + 1 times.

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
