"""AdaLoRA (Zhang et al., arXiv:2303.10512): LoRA in the form of an SVD, B diag(E) A, whose ranks follow importance.

The modules are PEFT's. Ranks are allocated in the optimizer (`layerfit.optimizers.adalora`), which has weights,
gradients and fp32 masters and whose state is checkpointed. It needs whole matrices, so engines that flatten parameters
(ZeRO 1-3) refuse this method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import Shape
from layerfit.errors import UserError, check_range
from layerfit.methods.base import OptimizerSpec
from layerfit.methods.lora import LowRank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layerfit.anatomy import Anatomy


def _steps(name: str, value: float, num_steps: int) -> int:
    """Return a number of steps from a fraction of the run, below 1, or a count."""
    steps = round(value * num_steps) if value < 1 else int(value)
    if value >= 1 and value != steps:
        raise UserError(f"{name}={value:g} is not a number of steps: give a whole number, or a fraction below 1")
    return steps


@dataclass
class AdaLoRA(LowRank):
    """See the module's docstring; sources of the defaults: `conf/method/adalora.yaml`."""

    rank: int = 8
    """The mean rank at the end."""
    alpha: float = 24.0
    init_rank: int = 12
    warmup: float = 0.0
    final: float = 0.0
    allocate_every: int = 1
    beta_sensitivity: float = 0.85
    beta_uncertainty: float = 0.85
    orthogonality: float = 0.5

    needs_matrices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("method.init_rank", self.init_rank, 1)
        check_range("method.warmup", self.warmup, 0)
        check_range("method.final", self.final, 0)
        check_range("method.allocate_every", self.allocate_every, 1)
        for name in ("beta_sensitivity", "beta_uncertainty"):
            check_range(f"method.{name}", getattr(self, name), 0, 1, low_open=True, high_open=True)
        check_range("method.orthogonality", self.orthogonality, 0)
        if self.init_rank <= self.rank:
            raise UserError(
                f"method.init_rank={self.init_rank} must be above method.rank={self.rank}, the mean rank at the end"
            )
        if self.allocate_every > 1 and self.final == 0:
            raise UserError(
                f"method.allocate_every={self.allocate_every} with method.final=0 may end between two allocations, "
                "with ranks above the budget; set method.final, for example 0.1"
            )

    def check(self, shape: Shape) -> None:
        """Raise UserError if a target is unknown, or the phases leave no step for the allocation."""
        super().check(shape)
        if shape.num_steps > 1:  # not known yet for a run measured in epochs
            self._phases(shape.num_steps)

    def _phases(self, num_steps: int) -> tuple[int, int]:
        """Return the number of steps before the first allocation and after the last."""
        warmup, final = (_steps(f"method.{key}", getattr(self, key), num_steps) for key in ("warmup", "final"))
        if warmup + final >= num_steps:
            raise UserError(
                f"method.warmup={self.warmup:g} and method.final={self.final:g} leave none of {num_steps} steps "
                "for the allocation of ranks; lower them"
            )
        return warmup, final

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Freeze the model and insert adapters, in the model's own dtype."""
        from layerfit.adapters.peft import add_adalora

        names = [anatomy.module_path(unit) for unit in anatomy.modules(self.targets)]
        return add_adalora(
            model, names, rank=self.rank, init_rank=self.init_rank, alpha=self.alpha, dropout=self.dropout
        )

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return R of Eq. 4 times `orthogonality`; R is a mean over matrices, as in PEFT."""
        from layerfit.adapters.peft import distance_to_orthogonal

        return distance_to_orthogonal(model) * self.orthogonality if self.orthogonality else None

    def optimizer(self, shape: Shape) -> OptimizerSpec:
        """Return AdamW with rank allocation.

        Raises:
            UserError: if the phases leave no step for the allocation.
        """
        from layerfit.optimizers.adalora import LEFT, RIGHT, VALUES, RankAdamW

        warmup, final = self._phases(shape.num_steps)
        shared = {
            "target_rank": self.rank,
            "num_steps": shape.num_steps,
            "warmup": warmup,
            "final": final,
            "allocate_every": self.allocate_every,
            "beta_sensitivity": self.beta_sensitivity,
            "beta_uncertainty": self.beta_uncertainty,
        }
        sides = {"lora_A": RIGHT, "lora_E": VALUES, "lora_B": LEFT}
        return OptimizerSpec(RankAdamW, lambda name, _: {"role": sides[name.split(".")[-2]], **shared})

    def findings(self, model: nn.Module, anatomy: Anatomy, state: Any) -> dict[str, Any]:
        """Return `ranks`: the number of nonzero singular values of every module."""
        from layerfit.adapters.peft import singular_values

        return {"ranks": {unit: int((value != 0).sum()) for unit, value in singular_values(model, anatomy).items()}}
