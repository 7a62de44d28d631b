"""LoRA through PEFT (Hu et al., arXiv:2106.09685): W + (alpha / rank) B A, on all linear modules of the blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import EMBEDDING, HEAD, Shape, layer_units
from layerfit.errors import UserError, check_range
from layerfit.methods.base import Context, Method, Plan

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy


@dataclass
class LowRank(Method):
    """Low-rank adapters in the blocks; base of LoRA and of methods built on it. All else is frozen."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)
    """Linear modules by the last part of their name; empty = all of them."""

    decomposed: ClassVar[bool] = False
    """True if a magnitude per output trains as well (DoRA)."""

    def __post_init__(self) -> None:
        check_range("method.rank", self.rank, 1)
        check_range("method.alpha", self.alpha, 0, low_open=True)
        check_range("method.dropout", self.dropout, 0, 1, high_open=True)

    def check(self, shape: Shape) -> None:
        """Raise UserError if a target is not a linear module of this model."""
        shape.check_targets(self.targets)

    def outside(self, anatomy: Anatomy) -> list[str]:
        """Return the module paths outside the blocks that get an adapter as well."""
        return []

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Freeze the model and insert adapters, in the model's own dtype."""
        return self.insert(model, anatomy, anatomy.modules(self.targets))

    def insert(self, model: nn.Module, anatomy: Anatomy, units: list[str]) -> nn.Module:
        """Freeze the model and insert an adapter into each of `units`, linear modules."""
        from layerfit.adapters.peft import add_lora

        names = [anatomy.module_path(unit) for unit in units] + self.outside(anatomy)
        return add_lora(
            model, names, rank=self.rank, alpha=self.alpha, dropout=self.dropout, decomposed=self.decomposed
        )

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return a plan that trains all adapters."""
        return Plan(layer_units(range(ctx.shape.num_layers)))


@dataclass
class LoRA(LowRank):
    """Plain LoRA; with `embeddings` the token embedding and the head get adapters too."""

    embeddings: bool = field(default=False, metadata={"since": "LoRA on embedding and head"})
    """As in the LISA paper's figure of weight norms. Refused where the two are one matrix."""

    def check(self, shape: Shape) -> None:
        """Raise UserError if a target is unknown, or embedding and head are to be adapted and are one matrix."""
        super().check(shape)
        # An adapter at the embedding leaves the head as it was, but merging it changes the one matrix, so both: another
        # model than the evaluated one. PEFT's `ensure_weight_tying` (0.21.2) does not help: it makes two parameters
        # over the same memory, each with its own gradient and moments, and merging adds the update twice.
        if self.embeddings and shape.tied:
            raise UserError(
                "method.embeddings=true but this model's head is its embedding (tied), so the merged model would "
                "differ from the evaluated one; set method.embeddings=false, or choose a model with a head of its own"
            )

    def outside(self, anatomy: Anatomy) -> list[str]:
        """Return embedding and head if `embeddings` is set."""
        return [anatomy.embedding, anatomy.head] if self.embeddings else []

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return a plan that trains all adapters."""
        return Plan(layer_units(range(ctx.shape.num_layers)), (EMBEDDING, HEAD) if self.embeddings else ())
