"""A given set of units trains, from the first step to the last: the control for every method that chooses."""

from __future__ import annotations

from dataclasses import dataclass, field

from layerfit.errors import UserError, check_one_of
from layerfit.methods.base import EMBEDDING, HEAD, NORM, Context, Method, Plan, Shape, layer_units


@dataclass
class Static(Method):
    """Train exactly `units` (`layers.3`, or `layers.3.mlp.up_proj`) and the parts in `always`."""

    units: list[str] = field(default_factory=list)
    always: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for part in self.always:
            check_one_of("method.always", part, (EMBEDDING, HEAD, NORM))
        if not self.units and not self.always:
            raise UserError("method.units=[] with method.always=[] trains nothing; name a unit, for example layers.0")

    def check(self, shape: Shape) -> None:
        """Raise UserError if a unit is neither a block of this model nor a linear module of one."""
        known = layer_units(range(shape.num_layers)) | set(shape.modules())
        for unit in self.units:
            if unit not in known:
                raise UserError(
                    f"method.units names {unit!r}, not a unit of this model: "
                    f"layers.0..layers.{shape.num_layers - 1}, or one of their {', '.join(shape.linear)}"
                )

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return the given set."""
        return Plan(frozenset(self.units), tuple(self.always))
