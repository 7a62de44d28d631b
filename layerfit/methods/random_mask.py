"""Random masking: train a random subset of single weights; all others stay bit-identical (arXiv:2405.02596).

Every entry of the blocks' linear modules is drawn once, with probability `share`, from `method.seed`. The drawn entries
of a module form one small parameter, so gradients, clipping, moments, masters and ZeRO's shards exist for them alone;
the forward pass writes them into a copy of the frozen matrix (`layerfit.adapters.masked`). Embedding, norms, biases and
head are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerfit.anatomy import Shape, layer_units
from layerfit.errors import UserError, check_range
from layerfit.methods.base import Context, Method, Plan

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy


@dataclass
class RandomMask(Method):
    """See the module's docstring; sources of the defaults: `conf/method/random_mask.yaml`."""

    share: float = 0.01
    """Probability that a weight is drawn to train."""
    targets: list[str] = field(default_factory=list)
    """Linear modules by the last part of their name; empty = all of them."""

    def __post_init__(self) -> None:
        check_range("method.share", self.share, 0, 1, low_open=True)

    def check(self, shape: Shape) -> None:
        """Raise UserError if a target is not a linear module of this model."""
        shape.check_targets(self.targets)

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Freeze the model and make the drawn entries of its linear modules parameters.

        Raises:
            UserError: if no weight is drawn.
        """
        from layerfit.adapters.masked import mask_modules

        units = anatomy.modules(self.targets)
        if not mask_modules(model, anatomy, units, share=self.share, seed=self.resolved_seed):
            raise UserError(f"method.share={self.share:g} drew none of this model's weights; raise it")
        return model

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return a plan that trains all drawn entries."""
        return Plan(layer_units(range(ctx.shape.num_layers)))
