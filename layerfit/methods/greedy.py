"""A ranking of blocks by greedy removal of trained adapters (IST's preliminary observation, arXiv:2410.11772).

LoRA trains to the end. Then, in every round, the loss is computed without the adapters of each remaining block
(response times 0), and the block with the lowest loss is removed. The score of a block is the round of its removal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import Shape
from layerfit.errors import check_one_of, check_range
from layerfit.importance.greedy import remove_greedily
from layerfit.methods.base import Context
from layerfit.methods.lora import LowRank
from layerfit.methods.rankings import BLOCK

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy


@dataclass
class Removal:
    """Blocks in the order of their removal, and N + 1 losses: with all, without the first, ..."""

    order: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


@dataclass
class GreedyRanking(LowRank):
    """See the module's docstring."""

    probe_data: str = "validation"
    probe_batch_size: int = 16
    removal_batches: int = 4
    """Number of probe batches; every mean loss is over the same ones."""

    ranks: ClassVar[str | None] = BLOCK

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("method.probe_data", self.probe_data, ("train", "validation"))
        check_range("method.probe_batch_size", self.probe_batch_size, 1)
        check_range("method.removal_batches", self.removal_batches, 1)

    def probe_source(self) -> tuple[str, int]:
        """Return the configured split and size."""
        return self.probe_data, self.probe_batch_size

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Removal:
        """Return an empty removal."""
        return Removal()

    def after_step(self, step: int, ctx: Context) -> bool:
        """Remove the blocks' adapters greedily after the last step."""
        if step + 1 < ctx.shape.num_steps:
            return False

        def loss(removed: frozenset[str]) -> float:
            scales = dict.fromkeys(sorted(removed), 0.0)
            return sum(ctx.probe(scales, batch) for batch in range(self.removal_batches)) / self.removal_batches

        ctx.state.order, ctx.state.losses = remove_greedily(ctx.shape.blocks(), loss)
        return True

    def findings(self, model: nn.Module, anatomy: Anatomy, state: Removal) -> dict[str, Any]:
        """Return `removal` (order and N + 1 losses) and `ranking` (the round in which every block was removed)."""
        rounds = {unit: float(i) for i, unit in enumerate(state.order, start=1)}
        blocks = anatomy.shape(num_steps=0).blocks()
        return {"removal": asdict(state), "ranking": {"scores": {unit: rounds[unit] for unit in blocks}}}
