"""LIFT: one block trains at a time, and backward stops there (ICLR 2024 submission u0INlprg3U).

Embedding, norm, head and all other blocks are frozen, so no gradient is computed below the active block. The abstract
gives no more detail; order and length of the turns are our choice (`docs/methods/lift.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from layerfit.anatomy import Shape, layer_units
from layerfit.errors import check_one_of
from layerfit.methods.base import REBUILD, Context, Method, Plan, SwitchPolicy
from layerfit.methods.lisa import ORDERS, interval, next_layers


@dataclass
class Lift(Method):
    """See the module's docstring."""

    switch_every: str | None = None
    """Steps of one turn, or `T/n` of the run; null = the run divided by the number of blocks: one pass."""
    order: str = "ascending"
    masters: str = "carry"

    switching: ClassVar[str] = REBUILD

    def __post_init__(self) -> None:
        check_one_of("method.order", self.order, ORDERS)
        check_one_of("method.masters", self.masters, ("carry", "drop"))
        if self.switch_every is not None:
            interval(self.switch_every, 100)

    def switch_policy(self) -> SwitchPolicy:
        """Return `reset`: successive turns share no parameter, so there is no Adam state to keep."""
        return SwitchPolicy(moments="reset", masters=self.masters)

    def steps_per_turn(self, shape: Shape) -> int:
        """Return the steps of one turn; by default rounded down, so that T >= N steps cover every block."""
        if self.switch_every is not None:
            return interval(self.switch_every, shape.num_steps)
        return max(1, shape.num_steps // shape.num_layers)

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return the active block of this step's turn."""
        turn = step // self.steps_per_turn(ctx.shape)
        layers = next_layers(num_layers=ctx.shape.num_layers, num_active=1, draw=turn, seed=ctx.seed, order=self.order)
        return Plan(layer_units(layers))
