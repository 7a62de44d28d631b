"""What an estimate is made for: a run's parameters, by shape, and what its method puts in and trains."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from layerfit.anatomy import EMBEDDING, HEAD, Anatomy
from layerfit.config.identity import required_runs
from layerfit.config.schema import ModelConfig, RunConfig
from layerfit.engines.trainable import planned
from layerfit.errors import UserError
from layerfit.estimate.shapes import Sizes, block_parameters, linear_shapes, parameters, read_sizes
from layerfit.estimate.walk import Trained
from layerfit.methods.base import Insert, Method, Plan
from layerfit.models.architecture import model_config, read_anatomy
from layerfit.models.hub import model_source


@dataclass(frozen=True)
class Subject:
    """A run as far as shapes go. state: its method's, of a ranking where it needs one."""

    run: RunConfig
    method: Method
    state: Any
    sizes: Sizes
    anatomy: Anatomy
    base: dict[str, tuple[int, ...]]
    inserts: dict[str, Insert]

    @cached_property
    def added(self) -> dict[str, tuple[int, ...]]:
        """The parameters that the method adds, by name."""
        return {
            f"{self.anatomy.module_path(unit)}.{name}": shape
            for unit, insert in self.inserts.items()
            for name, shape in insert.parameters.items()
        }

    @property
    def among(self) -> set[str]:
        """The names of all parameters that a plan can train."""
        return set(self.added or self.base)

    def insert(self, unit: str) -> Insert:
        """Return what is put into a module, an empty one where nothing is."""
        return self.inserts.get(unit, Insert({}))

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a parameter."""
        return self.added[name] if name in self.added else self.base[name]

    def trained(self, plan: Plan) -> set[str]:
        """Return the names of the parameters that train under a plan."""
        return planned([*self.base, *self.added], self.anatomy, plan, self.among)

    def block(self, index: int, trained: set[str]) -> Trained:
        """Return what trains in a block."""
        path, unit = f"{self.anatomy.blocks}.{index}", f"layers.{index}."
        modules = dict.fromkeys(name.rpartition(".")[0] for name in block_parameters(self.sizes))
        inserts = {u.removeprefix(unit): ins for u, ins in self.inserts.items() if u.startswith(unit)}
        weights = frozenset(m for m in modules if f"{path}.{m}.weight" in trained)
        active = frozenset(m for m, one in inserts.items() if any(f"{path}.{m}.{p}" in trained for p in one.parameters))
        return Trained(weights, inserts, active)

    def part_trains(self, part: str, trained: set[str]) -> bool:
        """Return whether something of EMBEDDING, NORM or HEAD trains."""
        return any(part in self.anatomy.parts(name) for name in trained if self.anatomy.unit(name) is None)


def sizes_of(model: ModelConfig, source: str | Path | None) -> Sizes | str:
    """Return a model's sizes: from its folder, else from `conf/model`; or why they are not known."""
    if isinstance(source, Path):
        found = read_sizes(model_config(source))
    elif model.sizes:
        found = read_sizes({"max_position_embeddings": model.max_positions, **model.sizes})
    else:
        return f"model={model.name}: conf/model has no sizes and its config.json is not here; set hub.mirror"
    return f"model={model.name}: {found}" if isinstance(found, str) else found


def describe(run: RunConfig, findings: list[dict[str, Any]] | None = None) -> Subject | str:
    """Return the subject of a run, or why there is none. Nothing is fetched for it.

    findings: what the method begins with; where it needs some and there are none, units get scores in an arbitrary
    order that mixes depth and kind (`placeholder`).
    """
    try:
        source: str | Path | None = model_source(run.model, run.hub)
    except UserError:
        source = None
    model, method = run.model, run.method
    sizes = sizes_of(model, source)
    if isinstance(sizes, str):
        return sizes
    if model.open_parts() and not isinstance(source, Path):
        return f"model={model.name}: {', '.join(model.open_parts())} are not known without its config.json"
    anatomy = model.anatomy() if source is None else read_anatomy(model, source)
    if sizes.num_layers != anatomy.num_layers:
        return f"model={model.name}: {sizes.num_layers} layers by its sizes, num_layers={anatomy.num_layers}"
    shape = run.shape(anatomy)
    if not findings and (rankings := method.rankings()) is not None:
        findings = [placeholder(rankings.units(shape))] * max(1, len(required_runs(run)))
    state = method.begin(shape, findings or [])
    if type(method).adapt is not Method.adapt and type(method).inserts is Method.inserts:
        return f"method={run.method_name()} does not say what it puts into a model (Method.inserts)"
    shapes = {f"layers.{i}.{m}": s for i in range(sizes.num_layers) for m, s in linear_shapes(sizes).items()}
    shapes |= dict.fromkeys((EMBEDDING, HEAD), (sizes.vocabulary, sizes.width))
    if unknown := sorted(set(anatomy.linear) - set(linear_shapes(sizes))):
        return f"model={model.name}: no shape is known of {', '.join(unknown)}"
    inserts = method.inserts(anatomy, shapes, state)
    return Subject(run, method, state, sizes, anatomy, parameters(sizes, anatomy), inserts)


def placeholder(units: list[str]) -> dict[str, Any]:
    """Return findings of a ranking that nobody has made yet: an order by hash, the same everywhere."""
    return {"scores": {unit: float(int(hashlib.blake2s(unit.encode()).hexdigest()[:8], 16)) for unit in units}}
