"""Bottleneck adapters: a wrapper of one linear module; inserting, saving and loading them.

PEFT has no such kind, so they are saved as a safetensors file and a small JSON with their settings and positions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from layerfit.errors import UserError

ADAPTER = "default"
"""PEFT's name of the adapter, which is the key in a layer's `scaling`."""
ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
STD = 0.02
"""Standard deviation of the `normal` initialisation (BERT's)."""
TENSORS, SETTINGS = "adapter.safetensors", "bottleneck.json"
FORMAT = 1


class BottleneckLinear(nn.Module):
    """A linear module m with f(v) = up(activation(down(v))), matrices without bias and s = `scaling`.

    position: `after`: m(x) + s f(m(x)); `before`: m(x + s f(x)); `beside`: m(x) + s f(x).
    The adapter takes the dtype and device of m, which becomes the submodule `base_layer`.
    """

    def __init__(self, base: nn.Linear, position: str, *, size: int, activation: str, scale: float, init: str) -> None:
        super().__init__()
        self.base_layer = base
        self.position, self.activation = position, activation
        self.scaling = {ADAPTER: scale}
        width_in = base.out_features if position == "after" else base.in_features
        width_out = base.in_features if position == "before" else base.out_features
        self.adapter_down = nn.Linear(width_in, size, bias=False)
        self.adapter_up = nn.Linear(size, width_out, bias=False)
        self.reset(init)
        self.adapter_down.to(base.weight)
        self.adapter_up.to(base.weight)

    def reset(self, init: str) -> None:
        """Initialise: `zero`: Kaiming-uniform down and zero up, so f = 0; `normal`: both N(0, 0.02^2), so f != 0."""
        if init == "normal":
            nn.init.normal_(self.adapter_down.weight, std=STD)
            nn.init.normal_(self.adapter_up.weight, std=STD)
        else:
            nn.init.kaiming_uniform_(self.adapter_down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.adapter_up.weight)

    def response(self, x: Tensor) -> Tensor:
        """Return s f(x), [..., width]."""
        hidden = ACTIVATIONS[self.activation](self.adapter_down(x))
        return self.adapter_up(hidden) * self.scaling[ADAPTER]

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted output, [..., out]."""
        if self.position == "before":
            return self.base_layer(x + self.response(x))
        out = self.base_layer(x)
        return out + self.response(out if self.position == "after" else x)


def add_bottlenecks(
    model: nn.Module, positions: Mapping[str, str], *, size: int, activation: str, scale: float, init: str = "zero"
) -> nn.Module:
    """Wrap the linear modules in `positions` (full module path -> position), in place; everything else is frozen.

    Raises:
        UserError: if a module is not a plain nn.Linear.
    """
    model.requires_grad_(False)
    for path, position in positions.items():
        base = model.get_submodule(path)
        if type(base) is not nn.Linear:
            raise UserError(f"{path} is a {type(base).__name__}; bottleneck adapters wrap nn.Linear, see conf/model")
        wrapped = BottleneckLinear(base, position, size=size, activation=activation, scale=scale, init=init)
        model.set_submodule(path, wrapped)
    return model


def bottlenecks(model: nn.Module) -> dict[str, BottleneckLinear]:
    """Return the wrapped modules by path, in the model's order."""
    return {path: module for path, module in model.named_modules() if isinstance(module, BottleneckLinear)}


def _tensors(layers: Mapping[str, BottleneckLinear]) -> dict[str, Tensor]:
    sides = {f"{path}.adapter_{side}": layer for path, layer in layers.items() for side in ("down", "up")}
    return {f"{name}.weight": getattr(layer, name.rpartition(".")[2]).weight for name, layer in sides.items()}


def save_bottlenecks(model: nn.Module, folder: Path) -> None:
    """Write the adapters of a model, without its other weights, into a folder."""
    layers = bottlenecks(model)
    first = next(iter(layers.values()))
    settings = {
        "format": FORMAT,
        "size": first.adapter_down.out_features,
        "activation": first.activation,
        "scale": first.scaling[ADAPTER],
        "places": {path: layer.position for path, layer in layers.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in _tensors(layers).items()}, folder / TENSORS)
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")


def load_bottlenecks(model: nn.Module, folder: Path | str) -> nn.Module:
    """Return the pretrained `model` with the adapters saved in `folder` by `save_bottlenecks`, in place.

    Raises:
        UserError: if the folder holds none, or adapters of another model.
    """
    path = Path(folder) / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder} holds no {SETTINGS}; give the adapter folder of a run with save.weights=final")
    settings = json.loads(path.read_text())
    if settings.pop("format") != FORMAT:
        raise UserError(f"{path} is not of format {FORMAT}; load it with the version of layerfit that wrote it")
    saved = load_file(Path(folder) / TENSORS)
    try:
        add_bottlenecks(model, settings.pop("places"), **settings)
        own = _tensors(bottlenecks(model))
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])
    except (AttributeError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder} holds adapters of another model: {str(error).splitlines()[0]}") from error
    return model
