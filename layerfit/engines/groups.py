"""Optimizer groups: one per unit that switches, split by weight decay and by what the method asks for."""

from __future__ import annotations

from typing import Any

from torch import nn

from layerfit.anatomy import Anatomy, block_of
from layerfit.methods.base import STATIC, Method


def group_key(name: str, anatomy: Anatomy) -> str:
    """Return the group of a parameter: its block (`layers.3`), or `rest` outside the blocks."""
    unit = anatomy.unit(name)
    return block_of(unit) if unit else "rest"


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return a parameter's shape, also where ZeRO-3 has sharded it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def optimizer_groups(
    named: list[tuple[str, nn.Parameter]], anatomy: Anatomy, method: Method, weight_decay: float
) -> list[dict[str, Any]]:
    """Return torch parameter groups, none of them empty, each with the `key` of its block.

    One group per block where plans switch (a ZeRO group is one flat tensor with one step count), one in all otherwise.
    Decay acts on matrices only.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in named:
        shape = full_shape(parameter)
        options = method.group_options(anatomy.unit(name) or anatomy.canonical(name), shape)
        key = "all" if method.switching == STATIC else group_key(name, anatomy)
        decay = weight_decay if len(shape) > 1 else 0.0
        group = groups.setdefault((key, decay, *sorted(options.items())), {"params": []})
        group["params"].append(parameter)
        group.update(key=key, weight_decay=decay, **options)
    return list(groups.values())
