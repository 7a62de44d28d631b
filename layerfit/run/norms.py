"""Weight norms while a model trains: what the LISA paper's motivating figure shows, and what it leaves out.

w(l) = (1/T) sum_t ||theta_t(l)||_2 over the weights after the update of step t, all of a block as one vector
(arXiv:2403.17919, section 3.1). Under adapters the published curve is of A and B, mostly their initialisation; so
norms at the start, and of the update that came of it, stand beside it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from layerfit.adapters.masked import entry_parameters
from layerfit.adapters.peft import adapter_parameters, is_adapted, weight_updates
from layerfit.anatomy import EMBEDDING, HEAD, NORM, block_of
from layerfit.engines.base import Engine

Squares = dict[str, float]
"""Squared L2 norm by parameter."""


class Norms:
    """Norms by unit: embedding, blocks from the lowest, final norm, head. A tied matrix counts as both its parts.

    Made before the first step, over weights as loaded; weights that train are kept as they were (in host memory, on
    rank 0). Needs whole weights on every rank.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        anatomy, parameters = engine.anatomy, engine.parameters
        blocks = [f"layers.{i}" for i in range(anatomy.num_layers)]
        self.units = [EMBEDDING, *blocks, NORM, HEAD]
        self.adapters = adapter_parameters(engine.module) & engine.among
        self.base = set(parameters) - adapter_parameters(engine.module)
        self.replaced = entry_parameters(engine.module)
        keeps = sorted(engine.among) if engine.rank == 0 else []
        self.start = {name: parameters[name].detach().to("cpu", copy=True) for name in keeps}
        self.first = self._squares(set(parameters))
        self.squares = dict(self.first)
        self.sums = self._zeros()
        self.count = 0

    def _zeros(self) -> dict[str, list[float]]:
        return {"base": [0.0] * len(self.units), "adapters": [0.0] * len(self.units)}

    def _squares(self, names: set[str]) -> Squares:
        """Return ||theta||^2 of some parameters, in one wait for the device."""
        ordered = sorted(names)
        tensors = [self.engine.parameters[name].detach() for name in ordered]
        norms = torch.stack([torch.linalg.vector_norm(t, dtype=torch.float32) for t in tensors]).tolist()
        return {name: norm**2 for name, norm in zip(ordered, norms, strict=True)}

    def _of_unit(self, name: str) -> list[int]:
        """Return the places of the units that a parameter or module belongs to."""
        unit = self.engine.anatomy.unit(name)
        found = [block_of(unit)] if unit else self.engine.anatomy.parts(name)
        return [self.units.index(u) for u in found]

    def _by_unit(self, squares: Squares, names: set[str]) -> list[float]:
        """Return the norm of every unit over `names`."""
        totals = [0.0] * len(self.units)
        for name in sorted(names):
            for place in self._of_unit(name):
                totals[place] += squares[name]
                if name in self.replaced:  # entries stand in the place of some of a matrix that is counted whole
                    totals[place] -= self.first[name]
        return [math.sqrt(total) for total in totals]

    def _adapted_units(self, values: list[float]) -> list[float | None] | None:
        """Return values of adapters, null where a unit has none; null without any."""
        places = {place for name in self.adapters for place in self._of_unit(name)}
        return [v if i in places else None for i, v in enumerate(values)] if self.adapters else None

    def add(self) -> None:
        """Count the weights as they are after a step."""
        self.squares |= self._squares(self.engine.active)
        for kind, names in (("base", self.base), ("adapters", self.adapters)):
            norms = self._by_unit(self.squares, names)
            self.sums[kind] = [total + norm for total, norm in zip(self.sums[kind], norms, strict=True)]
        self.count += 1

    def _moved(self) -> Squares:
        """Return ||theta_T - theta_0||^2 of what could train; on rank 0."""
        parameters, out = self.engine.parameters, {}
        for name, start in self.start.items():
            now = parameters[name].detach()
            difference = now.float() - start.to(now.device).float()
            out[name] = float(torch.linalg.vector_norm(difference)) ** 2
        return out

    def _update(self, moved: Squares) -> list[float] | None:
        """Return the norm of what training added to the weights of every unit; null where that is no matrix."""
        totals = [0.0] * len(self.units)
        if not is_adapted(self.engine.module):
            squares = moved
        else:
            updates = weight_updates(self.engine.module)
            if updates is None:
                return None
            squares = {path: _square(make()) for path, make in updates.items()}
        for name, square in squares.items():
            for place in self._of_unit(name):
                totals[place] += square
        return [math.sqrt(total) for total in totals]

    @torch.no_grad()
    def findings(self) -> dict[str, Any]:
        """Return the norms by unit; on rank 0, before the engine is closed."""
        moved = self._moved()
        out: dict[str, Any] = {"units": self.units, "steps": self.count}
        means = {kind: [s / self.count for s in sums] if self.count else None for kind, sums in self.sums.items()}
        out["initial"], out["mean"] = self._by_unit(self.first, self.base), means["base"]
        out["update"] = self._update(moved)
        of_adapters = {
            "initial": self._by_unit(self.first, self.adapters),
            "mean": means["adapters"],
            "update": self._by_unit(moved, self.adapters),
        }
        for key, values in of_adapters.items():
            out[f"adapter_{key}"] = None if values is None else self._adapted_units(values)
        return out

    def state_dict(self) -> dict[str, Any]:
        """Sums so far; everything else is there again when the model is loaded."""
        return {"sums": self.sums, "count": self.count}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore `state_dict`, after the weights."""
        self.sums, self.count = saved["sums"], saved["count"]
        self.squares = self._squares(set(self.engine.parameters))


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.float())) ** 2
