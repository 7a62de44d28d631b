"""The seam between a fine-tuning method and the rest of layerfit.

A method decides, the engine acts. A method is a dataclass: its fields are its configuration (Hydra's schema),
its few functions return data. It never touches `requires_grad`, an optimizer, a rank or a file.
Heavy imports stay inside functions: tables compose methods without importing torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import EMBEDDING, HEAD, NORM, Shape, layer_units
from layerfit.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layerfit.anatomy import Anatomy
    from layerfit.optimizers.adamw import AdamW

STATIC, REBUILD, SKIP = "static", "rebuild", "skip"
"""How an engine follows a changing plan (DESIGN: facts about DeepSpeed).

rebuild: at a change the optimizer is built anew over the planned parameters; memory is held for those only.
skip: every trainable parameter keeps its optimizer state; a step leaves out what the plan leaves out.
static: the plan never changes.
"""


@dataclass(frozen=True)
class Plan:
    """The parameters that train until the next plan.

    units: module paths inside the decoder, `layers.3` or `layers.3.self_attn.q_proj`; layer 0 is nearest the embedding.
    always: parts outside the blocks that train as well (EMBEDDING, NORM, HEAD).
    frozen: units inside `units` that do not train.
    draw: number of the draw that made this plan. Two plans of one draw with the same units are one plan.
    """

    units: frozenset[str]
    always: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()
    draw: int = 0


@dataclass(frozen=True)
class SwitchPolicy:
    """What becomes of optimizer state when a rebuild switches the plan.

    moments: `keep` (what stays active keeps its Adam state) or `reset` (all state fresh: the LISA paper's runs).
    masters: `carry` (fp32 masters of what leaves wait in host memory) or `drop` (rounded to the weights' dtype).
    """

    moments: str = "keep"
    masters: str = "carry"


@dataclass(frozen=True)
class Context:
    """What a method may know while the model trains.

    probe: `probe(scales, batch) -> nats per target token` on probe batch number `batch` (a pure function of the
        number), with the adapter response of each unit in `scales` multiplied by its factor. No gradient.
    response_gradient: the same loss and its derivative with respect to every factor.
    """

    shape: Shape
    seed: int
    probe: Callable[[Mapping[str, float], int], float]
    response_gradient: Callable[[Mapping[str, float], int], tuple[float, dict[str, float]]]


@dataclass
class Method:
    """Everything trains, nothing switches: each seam at its default. A method overrides one, rarely two."""

    seed: int | None = None
    """Seed of layer draws and adapter initialisation; follows the run's seed unless set."""

    switching: ClassVar[str] = STATIC
    needs_matrices: ClassVar[bool] = False
    """True if the optimizer must see whole matrices: engines that flatten parameters refuse."""
    trains: ClassVar[bool] = True
    ranks: ClassVar[str | None] = None
    """`block` or `module`: what the `ranking` in its findings scores. None: it makes no ranking."""
    unsupported_engines: ClassVar[tuple[str, ...]] = ()

    def switch_policy(self) -> SwitchPolicy:
        """Return what happens to optimizer state at a switch (only `switching = rebuild` has one)."""
        return SwitchPolicy()

    def probe_source(self) -> tuple[str, int]:
        """Return where probe batches come from (`train` or `validation`) and their number of sequences."""
        return "train", 16

    def check(self, shape: Shape) -> None:
        """Raise UserError if the parameters cannot be right for a model of this shape."""

    def requires(self) -> Method | None:
        """Return the method whose run must exist first (same model and training; data: `ranking_data`), or None."""
        return None

    def reads(self) -> str | None:
        """Return the path of a findings file to `receive`, or None."""
        return None

    def universe(self, shape: Shape) -> list[str]:
        """Return the units that a ranking which it receives must score."""
        return shape.modules()

    def check_rankings(self, number: int, *, own: bool) -> None:
        """Raise UserError if the number of required runs cannot be right; own: the first is on the run's own data."""
        if number > 1:
            raise UserError(f"this method goes by one ranking, and ranking_data names {number}; name one data set")

    def receive(self, findings: list[dict[str, Any]], shape: Shape) -> None:
        """Take the findings of the required runs, or of the file that `reads` names, before `adapt`."""

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Reshape the model once, before any engine exists; what it leaves trainable bounds every plan."""
        return model

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return a term of the weights alone that is added once to the loss of every optimizer step, or None.

        It is minimised but not reported. It sees whole weights only where the method `needs_matrices`.
        """
        return None

    def optimizer(self) -> type[AdamW]:
        """Return the optimizer class."""
        from layerfit.optimizers.adamw import AdamW

        return AdamW

    def group_options(self, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return extra options of the optimizer group of one parameter (canonical name, shape)."""
        return {}

    def plan(self, step: int, ctx: Context) -> Plan:
        """Choose what trains at optimizer step `step` (0-based); called once for every step, in order."""
        return Plan(layer_units(range(ctx.shape.num_layers)), (EMBEDDING, NORM, HEAD))

    def after_step(self, step: int, ctx: Context) -> bool:
        """Look at the model after optimizer step `step`; True ends the training."""
        return False

    def findings(self) -> dict[str, Any]:
        """Return what the run found out (scores, rankings): JSON, part of the record's result."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything `plan` and `findings` need that is not their arguments."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
