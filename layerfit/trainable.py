"""The one place that turns a plan into `requires_grad`."""

from collections.abc import Iterable

from torch import nn

from layerfit.anatomy import Anatomy
from layerfit.methods.base import Plan


def _inside(path: str, units: Iterable[str]) -> set[str]:
    """Return the units that a unit path lies in."""
    return {u for u in units if path == u or path.startswith(u + ".")}


def planned(names: Iterable[str], anatomy: Anatomy, plan: Plan, among: set[str]) -> set[str]:
    """Return the parameter names that train under `plan`.

    Args:
        names: all parameter names of the (adapted) model.
        anatomy: where blocks, embedding, norm and head are.
        plan: which units and parts.
        among: what `Method.adapt` left trainable; a plan never thaws more than that.

    Raises:
        ValueError: if a unit or part of the plan matches no parameter: a typo would otherwise freeze it silently.
    """
    out: set[str] = set()
    seen: set[str] = set()
    for name in names:
        path, part = anatomy.unit(name), anatomy.part(name)
        hits = _inside(path, plan.units) if path else {part} & set(plan.always) if part else set()
        frozen = _inside(path, plan.frozen) if path else set()
        seen |= hits | frozen
        if hits and not frozen:
            out.add(name)
    tied_head = {part for part in plan.always if part not in seen and anatomy.head == anatomy.embedding}
    if missing := sorted((plan.units | plan.frozen | set(plan.always)) - seen - tied_head):
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
