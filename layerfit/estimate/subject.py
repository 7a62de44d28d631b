"""The subject of an estimate: a run's model on torch's meta device, adapted by its method."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from dataclasses import dataclass, replace
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
"""A block's parameters: name relative to the block, shape, whether it trains. The first entry says whether a gradient
flows to below the block."""


@dataclass(frozen=True)
class PlanShape:
    """The part of a plan that decides its cost.

    kinds: of all blocks, from the lowest. outside: trained parameters outside the blocks. trained: all of them.
    """

    kinds: tuple[Kind, ...]
    outside: frozenset[str]
    trained: frozenset[str]

    @cached_property
    def key(self) -> tuple[frozenset[tuple[Kind, int]], frozenset[str]]:
        """Equal for plans of equal cost: the number of blocks of each kind, in any order."""
        return frozenset(Counter(self.kinds).items()), self.outside


@dataclass(frozen=True)
class Subject:
    """A run whose model has shapes and dtypes but no values.

    state: the method's state, begun from a ranking where it needs one. model: adapted, on the meta device: shapes and
    dtypes are those of the real one, and it takes no memory. among: names of the parameters that can train.
    """

    run: RunConfig
    method: Method
    state: Any
    anatomy: Anatomy
    model: nn.Module
    among: frozenset[str]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter, by name; a tied head is no parameter of its own."""
        return {name: tuple(p.shape) for name, p in self.model.named_parameters()}

    @cached_property
    def identity(self) -> str:
        """The settings, without seeds, that decide the cost of a step together with the kinds of the blocks."""
        method = replace(self.method, seed=None)
        training = self.run.training
        parts = (identity_of(self.run.model), type(method).__name__, identity_of(method), training.dtype)
        return repr((*parts, training.packing, self.run.engine.stage == 3))

    def trained(self, plan: Plan) -> set[str]:
        """Return the names of the parameters that train under a plan."""
        return planned(self.shapes, self.anatomy, plan, set(self.among))

    def number(self, plan: Plan) -> int:
        """Return how many parameters (scalars) train under a plan."""
        return sum(math.prod(self.shapes[name]) for name in self.trained(plan))

    def shape_of(self, plan: Plan) -> PlanShape:
        """Return the part of a plan that decides its cost."""
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


def _read(model: ModelConfig, source: str | Path | None) -> tuple[Any, Anatomy]:
    """Return a model's configuration and anatomy: from its folder, else from `conf/model`.

    Raises:
        UserError: if neither holds them.
    """
    if isinstance(source, Path):
        return architecture.transformers_config(model, source), architecture.read_anatomy(model, source)
    if not model.sizes:
        raise UserError(f"model={model.name}: conf/model has no sizes and its config.json is not here; set hub.mirror")
    if missing := model.open_parts():
        raise UserError(f"model={model.name}: {', '.join(missing)} are not known without its config.json")
    from transformers import AutoConfig

    config = AutoConfig.for_model(**{"max_position_embeddings": model.max_positions, **model.sizes})
    return config, model.anatomy()


def describe(run: RunConfig, findings: list[dict[str, Any]] | None = None) -> Subject | str:
    """Return the subject of a run, or the reason why there is none. Nothing is downloaded and no weight is allocated.

    findings: rankings for the method to begin with; if it needs some and none are given, units get scores in an
    arbitrary order that mixes depth and kind (`placeholder`).
    """
    try:
        source: str | Path | None = model_source(run.model, run.hub)
    except UserError:
        source = None
    method = run.method
    try:
        config, anatomy = _read(run.model, source)
        module = empty_model(run.model, anatomy, config, run.training.dtype)
    except UserError as error:
        return str(error)
    shape = run.shape(anatomy)
    if not findings and (rankings := method.rankings()) is not None:
        findings = [placeholder(rankings.units(shape))] * max(1, len(required_runs(run)))
    state = method.begin(shape, findings or [])
    adapted = _adapt(method, module, anatomy, state)
    return Subject(run, method, state, anatomy, adapted, frozenset(trainable(adapted)))


def _adapt(method: Method, module: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
    """Return the adapted model, still on the meta device.

    New tensors take their dtype and device from the model's weights. PEFT skips that step on the meta device, so here
    both are torch's defaults for new tensors.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(next(module.parameters()).dtype)
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore", category=FutureWarning):  # PEFT's calls
            return method.adapt(module, anatomy, state)
    finally:
        torch.set_default_dtype(before)


def placeholder(units: list[str]) -> dict[str, Any]:
    """Return findings in place of a ranking that has not been computed: an order by hash, the same on every machine."""
    return {"scores": {unit: float(int(hashlib.blake2s(unit.encode()).hexdigest()[:8], 16)) for unit in units}}
