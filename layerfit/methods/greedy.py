"""A ranking of blocks by greedy removal of trained adapters (IST's preliminary observation, arXiv:2410.11772).

LoRA to the end of training; then, round by round, every block that is left is tried without its adapters (response
times 0), and the one whose absence hurts the loss least is removed for good. The score of a block is its round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from layerfit.errors import check_one_of, check_range
from layerfit.importance.greedy import remove_greedily
from layerfit.methods.base import Context
from layerfit.methods.lora import LowRank


@dataclass
class GreedyRanking(LowRank):
    """See the module's docstring."""

    probe_data: str = "validation"
    probe_batch_size: int = 16
    removal_batches: int = 4
    """Probe batches, always the same ones, whose mean loss decides."""
    _found: dict[str, Any] = field(default_factory=dict, init=False, repr=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("method.probe_data", self.probe_data, ("train", "validation"))
        check_range("method.probe_batch_size", self.probe_batch_size, 1)
        check_range("method.removal_batches", self.removal_batches, 1)

    def probe_source(self) -> tuple[str, int]:
        """As configured."""
        return self.probe_data, self.probe_batch_size

    def after_step(self, step: int, ctx: Context) -> bool:
        """Remove the blocks' adapters greedily after the last step."""
        if step + 1 < ctx.shape.num_steps:
            return False

        def loss(removed: frozenset[str]) -> float:
            scales = dict.fromkeys(sorted(removed), 0.0)
            return sum(ctx.probe(scales, batch) for batch in range(self.removal_batches)) / self.removal_batches

        blocks = [f"layers.{i}" for i in range(ctx.shape.num_layers)]
        order, losses = remove_greedily(blocks, loss)
        rounds = {unit: float(i) for i, unit in enumerate(order, start=1)}
        self._found = {
            "removal": {"order": order, "losses": losses},
            "ranking": {"scores": {unit: rounds[unit] for unit in blocks}},
        }
        return True

    def findings(self) -> dict[str, Any]:
        """`removal`: order (first removed first) and N + 1 losses; `ranking`: the round of every block's removal."""
        return dict(self._found)

    def state_dict(self) -> dict[str, Any]:
        """What was found."""
        return dict(self._found)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._found = dict(state)
