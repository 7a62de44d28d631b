"""GaLore: Adam on gradients projected to low rank, all parameters trained (Zhao et al., arXiv:2403.03507, Algorithm 2).

The linear modules of the blocks are projected; embedding, norms and head get plain Adam. The optimizer needs
whole matrices, so engines that flatten parameters (ZeRO 1-3) refuse this method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from layerfit.anatomy import Shape
from layerfit.errors import UserError, check_one_of, check_range
from layerfit.methods.base import Method, OptimizerSpec

LARGEST_DEFAULT = 128
"""Rank of the released README's example; the paper's Table 2 uses a quarter of the width at 350M and 1B."""


@dataclass
class GaLore(Method):
    """See the module's docstring; the projector is in `layerfit.optimizers.galore`."""

    rank: int | None = None
    """null = a quarter of a matrix's smaller side, at most `LARGEST_DEFAULT`."""
    refresh_every: int = 200
    scale: float = 0.25
    projection: str = "svd"

    needs_matrices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_range("method.rank", self.rank, 1)
        check_range("method.refresh_every", self.refresh_every, 1)
        check_range("method.scale", self.scale, 0, low_open=True)
        check_one_of("method.projection", self.projection, ("svd", "randomized"))

    def check(self, shape: Shape) -> None:
        """Raise UserError if the rank exceeds the smaller side of the smallest matrix."""
        if self.rank is not None and shape.smallest_side is not None and self.rank > shape.smallest_side:
            raise UserError(
                f"method.rank={self.rank} is above the smaller side of this model's smallest linear module; "
                f"use rank <= {shape.smallest_side}"
            )

    def optimizer(self, shape: Shape) -> OptimizerSpec:
        """Return GaLore's AdamW; the block matrices are projected."""
        from layerfit.optimizers.galore import GaLoreAdamW

        return OptimizerSpec(GaLoreAdamW, self._options)

    def _options(self, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the projection settings of a matrix inside a block, nothing for other parameters."""
        if not name.startswith("layers.") or len(shape) != 2:
            return {}
        rank = self.rank or max(1, min(LARGEST_DEFAULT, min(shape) // 4))
        if rank > min(shape):
            raise UserError(f"method.rank={rank} is above the smaller side of {name} {shape}: use rank <= {min(shape)}")
        return {
            "rank": rank,
            "refresh_every": self.refresh_every,
            "scale": self.scale,
            "projection": self.projection,
            "seed": self.resolved_seed,
        }
