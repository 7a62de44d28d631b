"""The one place that turns a plan into `requires_grad`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from layerfit.anatomy import Anatomy
from layerfit.methods.base import Plan

if TYPE_CHECKING:
    from torch import nn


def _inside(path: str, units: Iterable[str]) -> set[str]:
    """Return the units that contain a unit path."""
    return {u for u in units if path == u or path.startswith(u + ".")}


def planned(names: Iterable[str], anatomy: Anatomy, plan: Plan, among: set[str]) -> set[str]:
    """Return the parameter names that train under `plan`.

    Args:
        names: all parameter names of the (adapted) model.
        anatomy: the module paths of the model.
        plan: the units and parts to train.
        among: the parameters left trainable by `Method.adapt`; a plan never trains others.

    A tied head and embedding are one matrix, which trains if the plan names either.

    Raises:
        ValueError: if a unit or part of the plan matches no parameter.
    """
    out: set[str] = set()
    seen: set[str] = set()
    for name in names:
        path = anatomy.unit(name)
        hits = _inside(path, plan.units) if path else anatomy.parts(name) & set(plan.always)
        frozen = _inside(path, plan.frozen) if path else set()
        seen |= hits | frozen
        if hits and not frozen:
            out.add(name)
    # A misspelt unit would otherwise stay frozen without notice.
    if missing := sorted((plan.units | plan.frozen | set(plan.always)) - seen):
        raise ValueError(f"the plan names {missing[:3]}, which match no parameter of this model")
    return out & among


def freeze_to(model: nn.Module, names: set[str]) -> None:
    """Make exactly these parameters require gradients; drop the gradients of the others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
        if name not in names:
            parameter.grad = None


def trainable(model: nn.Module) -> set[str]:
    """Return the names of the parameters that require gradients."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
