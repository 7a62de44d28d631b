"""Optimizer groups: one per block for plans that switch, split by weight decay and the method's options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from layerfit.anatomy import Anatomy, block_of


def group_key(name: str, anatomy: Anatomy) -> str:
    """Return the group of a parameter: its block (`layers.3`), or `rest` outside the blocks."""
    unit = anatomy.unit(name)
    return block_of(unit) if unit else "rest"


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return a parameter's full shape, also if ZeRO-3 has sharded it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def optimizer_groups(
    named: list[tuple[str, nn.Parameter]],
    anatomy: Anatomy,
    options_of: Callable[[str, tuple[int, ...]], dict[str, Any]],
    weight_decay: float,
    *,
    by_block: bool,
) -> list[dict[str, Any]]:
    """Return torch parameter groups, none of them empty, each with the `key` of its block.

    options_of: further group options of a parameter, from canonical name and full shape (`OptimizerSpec.options`).
    by_block: separate groups for every block, for plans that switch: a ZeRO group is one flat tensor with one step
    count. Decay acts on matrices only.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in named:
        shape = full_shape(parameter)
        options = options_of(anatomy.unit(name) or anatomy.canonical(name), shape)
        key = group_key(name, anatomy) if by_block else "all"
        decay = weight_decay if len(shape) > 1 else 0.0
        group = groups.setdefault((key, decay, *sorted(options.items())), {"params": []})
        group["params"].append(parameter)
        group.update(key=key, weight_decay=decay, **options)
    return list(groups.values())
