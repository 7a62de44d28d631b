"""The seam between a fine-tuning method and the rest of layerfit.

A method decides, the engine acts. A method is a dataclass: its fields are its configuration (Hydra's schema),
which never changes after composition; its few functions return data. What a run learns is a state of its own (`begin`).
A method never touches `requires_grad`, an optimizer, a rank or a file.
Heavy imports stay inside functions: tables compose methods without importing torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import EMBEDDING, HEAD, NORM, Shape, layer_units

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layerfit.anatomy import Anatomy
    from layerfit.methods.rankings import Rankings
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
class OptimizerSpec:
    """The optimizer of a method.

    kind: its class. options: more options of the group of one parameter, by canonical name and full shape.
    """

    kind: type[AdamW]
    options: Callable[[str, tuple[int, ...]], dict[str, Any]] = lambda name, shape: {}  # noqa: ARG005


@dataclass(frozen=True)
class Context:
    """What a method may know while the model trains.

    probe: `probe(scales, batch) -> nats per target token` on probe batch number `batch` (a pure function of the
        number), with the adapter response of each unit in `scales` multiplied by its factor. No gradient.
    response_gradient: the same loss and its derivative with respect to every factor.
    state: what `Method.begin` returned.
    """

    shape: Shape
    seed: int
    probe: Callable[[Mapping[str, float], int], float]
    response_gradient: Callable[[Mapping[str, float], int], tuple[float, dict[str, float]]]
    state: Any = None


@dataclass
class Method:
    """Everything trains, nothing switches: every hook at its default."""

    seed: int | None = None
    """Seed of layer draws and adapter initialisation; follows the run's seed unless set."""

    switching: ClassVar[str] = STATIC
    needs_matrices: ClassVar[bool] = False
    """True if the optimizer must see whole matrices: engines that flatten parameters refuse."""
    trains: ClassVar[bool] = True
    ranks: ClassVar[str | None] = None
    """`block` or `module`: what the `ranking` in its findings scores. None: it makes no ranking."""
    unsupported_engines: ClassVar[tuple[str, ...]] = ()

    @property
    def resolved_seed(self) -> int:
        """The seed, which a run has set (`RunConfig`): no draw is made of a seed that nobody gave."""
        assert self.seed is not None, "this method belongs to no run: its seed is not resolved"
        return self.seed

    # The hooks. A method overrides one or two of them.

    def check(self, shape: Shape) -> None:
        """Raise UserError if the settings cannot be right for a model of this shape.

        Called when a run is composed, and again when its model is about to be loaded.
        """

    def rankings(self) -> Rankings | None:
        """Return where the rankings come from that the method goes by, None if it goes by none.

        Called when runs are put in order, and before `begin`.
        """
        return None

    def probe_source(self) -> tuple[str, int] | None:
        """Return where probe batches come from (`train` or `validation`) and their sequences, None without probes.

        Called when a run is composed, and before its first step.
        """
        return None

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Any:
        """Return the state of a new run, a data class of plain values, or None if it learns nothing.

        Called once, before `adapt`, with the findings that `rankings` names. The later hooks may change the state, and
        nothing else of it: checkpoints save its fields.
        """
        return None

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Reshape the model; the parameters that it leaves trainable bound every plan.

        Called once, before any engine exists.
        """
        return model

    def optimizer(self, shape: Shape) -> OptimizerSpec:
        """Return the optimizer's class and the options of its groups. Called once, when an engine is made."""
        from layerfit.optimizers.adamw import AdamW

        return OptimizerSpec(AdamW)

    def switch_policy(self) -> SwitchPolicy:
        """Return the fate of optimizer state at a switch. Called at every switch of a method that rebuilds."""
        return SwitchPolicy()

    def plan(self, step: int, ctx: Context) -> Plan:
        """Choose what trains at optimizer step `step` (0-based). Called before every step, once, in order."""
        return Plan(layer_units(range(ctx.shape.num_layers)), (EMBEDDING, NORM, HEAD))

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return a term of the weights alone that is added to the loss, or None. Called once in every step.

        It is minimised but not reported. It sees whole weights only where the method `needs_matrices`.
        """
        return None

    def after_step(self, step: int, ctx: Context) -> bool:
        """Look at the model; True ends the training. Called after every optimizer step."""
        return False

    def findings(self, model: nn.Module, anatomy: Anatomy, state: Any) -> dict[str, Any]:
        """Return what the run found out (scores, rankings): JSON, part of the record's result.

        Called once, after training and evaluation, on the rank that writes the record.
        """
        return {}
