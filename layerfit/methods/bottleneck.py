"""Series and parallel adapters, with the geometry of LLM-Adapters (Hu et al., arXiv:2304.01933; its released code).

f(v) = up(activation(down(v))), a bottleneck of `size` without biases, wraps single linear modules of the MLP:
series (after Houlsby et al., arXiv:1902.00751): z + s f(z) on the output z of the module that leads out of the MLP,
m(x + s f(x)) on the input of one that leads into it; parallel (after He et al., arXiv:2110.04366): m(x) + s f(x).
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
    """What the two kinds share; the base model, embedding, norms and head are frozen."""

    size: int = 256
    activation: str = "tanh"
    scale: float = 1.0
    init: str = "zero"
    targets: list[str] = field(default_factory=list)
    """Linear modules by the last part of their name; empty = `standard`."""

    standard: ClassVar[tuple[str, ...]] = ()
    """The modules that LLM-Adapters' commonsense runs adapt, by every architecture's name of them."""
    places: ClassVar[dict[str, str]] = {}
    """Where the adapter sits, by module name (`BottleneckLinear`)."""

    def __post_init__(self) -> None:
        check_range("method.size", self.size, 1)
        check_one_of("method.activation", self.activation, ("tanh", "relu"))
        check_range("method.scale", self.scale, 0, low_open=True)
        check_one_of("method.init", self.init, ("zero", "normal"))

    def place(self, name: str) -> str | None:
        """Return where the adapter of a module goes, by the last part of its name; None if it cannot have one."""
        return self.places.get(name)

    def check(self, shape: Shape) -> None:
        """Raise UserError if a target is no linear module of this model, or one that this kind does not adapt."""
        known = list(dict.fromkeys(kind_of(name) for name in shape.linear))
        possible = [name for name in known if self.place(name) is not None]
        for target in self.targets:
            if target not in possible:
                raise UserError(
                    f"method.targets names {target!r}; of this model's linear modules such an adapter goes with: "
                    f"{', '.join(possible) or 'none'}"
                )
        if not self.targets and not set(known) & set(self.standard):
            raise UserError(
                f"method.targets=[] means one of {', '.join(self.standard)}, and this model has none of them; "
                f"name some of: {', '.join(possible) or 'none'}"
            )

    def adapted_modules(self, anatomy: Anatomy) -> dict[str, str]:
        """Return the units that get an adapter, with its place."""
        wanted = self.targets or self.standard
        return {unit: place for unit in anatomy.modules(wanted) if (place := self.place(kind_of(unit))) is not None}

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Freeze the model and wrap its modules, in the model's own dtype."""
        from layerfit.adapters.bottleneck import add_bottlenecks

        places = {anatomy.module_path(unit): place for unit, place in self.adapted_modules(anatomy).items()}
        return add_bottlenecks(
            model, places, size=self.size, activation=self.activation, scale=self.scale, init=self.init
        )

    def plan(self, step: int, ctx: Context) -> Plan:
        """All adapters, always."""
        return Plan(layer_units(range(ctx.shape.num_layers)))


@dataclass
class Series(Bottleneck):
    """Adapters in line with the MLP, at the width of the model: after it, or before it if so targeted."""

    standard: ClassVar[tuple[str, ...]] = OUT_OF_MLP
    places: ClassVar[dict[str, str]] = dict.fromkeys(OUT_OF_MLP, "after") | dict.fromkeys(INTO_MLP + GATES, "before")


@dataclass
class Parallel(Bottleneck):
    """Adapters beside linear modules, the two of the MLP unless others are named."""

    standard: ClassVar[tuple[str, ...]] = INTO_MLP + OUT_OF_MLP

    def place(self, name: str) -> str | None:
        """Any linear module can have one."""
        return "beside"
