"""Series and parallel adapters, with the geometry of LLM-Adapters (Hu et al., arXiv:2304.01933; its released code).

f(v) = up(activation(down(v))), a bottleneck of `size` without biases, is added to single linear modules m of the MLP:
series (after Houlsby et al., arXiv:1902.00751): z + s f(z) on the output z of the down projection, m(x + s f(x)) on
the input of an up projection; parallel (after He et al., arXiv:2110.04366): m(x) + s f(x).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import Shape, kind_of, layer_units
from layerfit.errors import UserError, check_one_of, check_range
from layerfit.methods.base import Context, Method, Plan

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy

OUT_OF_MLP = ("down_proj", "dense_4h_to_h", "fc_out", "fc2")
INTO_MLP = ("up_proj", "dense_h_to_4h", "fc_in", "fc1")
GATES = ("gate_proj",)


@dataclass
class Bottleneck(Method):
    """Base of the two kinds; the pretrained model is frozen."""

    size: int = 256
    activation: str = "tanh"
    scale: float = 1.0
    init: str = "zero"
    targets: list[str] = field(default_factory=list)
    """Linear modules by the last part of their name; empty = `standard`."""

    standard: ClassVar[tuple[str, ...]] = ()
    """The modules adapted in LLM-Adapters' commonsense runs, under the names of every architecture."""
    positions: ClassVar[dict[str, str]] = {}
    """Position of the adapter (`BottleneckLinear`), by the last part of the module's name."""

    def __post_init__(self) -> None:
        check_range("method.size", self.size, 1)
        check_one_of("method.activation", self.activation, ("tanh", "relu"))
        check_range("method.scale", self.scale, 0, low_open=True)
        check_one_of("method.init", self.init, ("zero", "normal"))

    def position(self, name: str) -> str | None:
        """Return the adapter's position for a module, by the last part of its name; None if it cannot have one."""
        return self.positions.get(name)

    def check(self, shape: Shape) -> None:
        """Raise UserError if a target is not a linear module of this model, or not one that this kind can adapt."""
        known = list(dict.fromkeys(kind_of(name) for name in shape.linear))
        possible = [name for name in known if self.position(name) is not None]
        for target in self.targets:
            if target not in possible:
                raise UserError(
                    f"method.targets names {target!r}; linear modules of this model that such an adapter fits: "
                    f"{', '.join(possible) or 'none'}"
                )
        if not self.targets and not set(known) & set(self.standard):
            raise UserError(
                f"method.targets=[] means one of {', '.join(self.standard)}, and this model has none of them; "
                f"name some of: {', '.join(possible) or 'none'}"
            )

    def adapted_modules(self, anatomy: Anatomy) -> dict[str, str]:
        """Return the units that get an adapter, each with its position."""
        wanted = self.targets or self.standard
        found = {unit: self.position(kind_of(unit)) for unit in anatomy.modules(wanted)}
        return {unit: position for unit, position in found.items() if position is not None}

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Freeze the model and wrap its modules, in the model's own dtype."""
        from layerfit.adapters.bottleneck import add_bottlenecks

        positions = {anatomy.module_path(unit): where for unit, where in self.adapted_modules(anatomy).items()}
        return add_bottlenecks(
            model, positions, size=self.size, activation=self.activation, scale=self.scale, init=self.init
        )

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return a plan that trains all adapters."""
        return Plan(layer_units(range(ctx.shape.num_layers)))


@dataclass
class Series(Bottleneck):
    """Adapters in series with the MLP, at model width: after it, or before it if up or gate projections are targets."""

    standard: ClassVar[tuple[str, ...]] = OUT_OF_MLP
    positions: ClassVar[dict[str, str]] = dict.fromkeys(OUT_OF_MLP, "after") | dict.fromkeys(INTO_MLP + GATES, "before")


@dataclass
class Parallel(Bottleneck):
    """Adapters parallel to linear modules, by default up and down projection of the MLP."""

    standard: ClassVar[tuple[str, ...]] = INTO_MLP + OUT_OF_MLP

    def position(self, name: str) -> str | None:
        """Return `beside`: any linear module can have such an adapter."""
        return "beside"
