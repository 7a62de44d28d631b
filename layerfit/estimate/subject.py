"""What an estimate is made for: a run's model on torch's meta device, with what its method puts into it."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfit.anatomy import EMBEDDING, Anatomy, block_of
from layerfit.config.identity import identity_of, required_runs
from layerfit.config.schema import ModelConfig, RunConfig
from layerfit.engines.trainable import planned, trainable
from layerfit.errors import UserError
from layerfit.methods.base import Method, Plan
from layerfit.models import architecture
from layerfit.models.hub import empty_model, model_source

if TYPE_CHECKING:
    from torch import nn

Kind = tuple[tuple[str, tuple[int, ...], bool], ...]
"""A block's parameters, names relative to it: shape, and whether it trains; first whether a gradient reaches below."""


@dataclass(frozen=True)
class PlanShape:
    """A plan as far as its cost goes. kinds: of all blocks, from the lowest. outside, trained: parameters that train,
    outside the blocks and all.
    """

    kinds: tuple[Kind, ...]
    outside: frozenset[str]
    trained: frozenset[str]

    @cached_property
    def key(self) -> tuple[frozenset[tuple[Kind, int]], frozenset[str]]:
        """Equal for plans of equal cost: the number of blocks of each kind, wherever they are."""
        return frozenset(Counter(self.kinds).items()), self.outside


@dataclass(frozen=True)
class Subject:
    """A run without its numbers. method: a copy, which has received a ranking where it needs one.

    model: adapted, on the meta device: every shape and dtype of the real one, no memory. among: what can train.
    """

    run: RunConfig
    method: Method
    anatomy: Anatomy
    model: nn.Module
    among: frozenset[str]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter, by name; a tied head is no parameter of its own."""
        return {name: tuple(p.shape) for name, p in self.model.named_parameters()}

    @cached_property
    def identity(self) -> str:
        """Decides, together with the kinds of the blocks, what one step computes: settings, and no seed."""
        method = copy.copy(self.method)
        method.seed = None
        training = self.run.training
        parts = (identity_of(self.run.model), type(method).__name__, identity_of(method), training.dtype)
        return repr((*parts, training.packing, self.run.engine.stage == 3))

    def trained(self, plan: Plan) -> set[str]:
        """Return the names of the parameters that train under a plan."""
        return planned(self.shapes, self.anatomy, plan, set(self.among))

    def number(self, plan: Plan) -> int:
        """Return how many numbers train under a plan."""
        return sum(math.prod(self.shapes[name]) for name in self.trained(plan))

    def shape_of(self, plan: Plan) -> PlanShape:
        """Return what a plan is made of."""
        trained = self.trained(plan)
        blocks: list[list[tuple[str, tuple[int, ...], bool]]] = [[] for _ in range(self.anatomy.num_layers)]
        outside = set()
        for name, shape in self.shapes.items():
            unit = self.anatomy.unit(name)
            if unit is None:
                outside |= {name} & trained
            else:
                block = block_of(unit)
                index = int(block.partition(".")[2])
                blocks[index].append((unit.removeprefix(block), shape, name in trained))
        gradient, kinds = any(EMBEDDING in self.anatomy.parts(name) for name in outside), []
        for parameters in blocks:
            kinds.append((("gradient", (), gradient), *parameters))
            gradient = gradient or any(trains for _, _, trains in parameters)
        return PlanShape(tuple(kinds), frozenset(outside), frozenset(trained))


def _transformers_config(model: ModelConfig, source: str | Path | None) -> Any:
    """Return a model's configuration: from its folder, else from the sizes in `conf/model`.

    Raises:
        UserError: if neither says it.
    """
    if isinstance(source, Path):
        architecture.read_model_parts(model, source)
        return architecture.transformers_config(model, source)
    if not model.sizes:
        raise UserError(f"model={model.name}: conf/model has no sizes and its config.json is not here; set hub.mirror")
    if model.open_parts():
        raise UserError(f"model={model.name}: {', '.join(model.open_parts())} are not known without its config.json")
    from transformers import AutoConfig

    return AutoConfig.for_model(**{"max_position_embeddings": model.max_positions, **model.sizes})


def describe(run: RunConfig, findings: list[dict[str, Any]] | None = None) -> Subject | str:
    """Return the subject of a run, or why there is none. Nothing is fetched for it, and no weight is made.

    findings: what the method must `receive`; where it needs some and there are none, units get scores in an arbitrary
    order that mixes depth and kind (`placeholder`).
    """
    try:
        source: str | Path | None = model_source(run.model, run.hub)
    except UserError:
        source = None
    model, method = copy.copy(run.model), copy.deepcopy(run.method)
    try:
        module = empty_model(model, _transformers_config(model, source), run.training.dtype)
    except UserError as error:
        return str(error)
    anatomy = model.anatomy()
    if method.requires() is not None or method.reads() is not None:
        shape = anatomy.shape(run.training.max_steps or 1)
        rankings = max(1, len(required_runs(run)))
        method.receive(findings or [placeholder(method.universe(shape))] * rankings, shape)
    adapted = _adapt(method, module, anatomy)
    return Subject(run, method, anatomy, adapted, frozenset(trainable(adapted)))


def _adapt(method: Method, module: nn.Module, anatomy: Anatomy) -> nn.Module:
    """Return the adapted model, still without numbers.

    What a method makes takes dtype and device from the model's own weights; PEFT leaves out that step on the meta
    device, so both are the default of new tensors here.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(next(module.parameters()).dtype)
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore", category=FutureWarning):  # PEFT's calls
            return method.adapt(module, anatomy)
    finally:
        torch.set_default_dtype(before)


def placeholder(units: list[str]) -> dict[str, Any]:
    """Return findings of a ranking that nobody has made yet: an order by hash, the same everywhere."""
    return {"scores": {unit: float(int(hashlib.blake2s(unit.encode()).hexdigest()[:8], 16)) for unit in units}}
