"""The interface between a fine-tuning method and the rest of layerfit.

A method decides, the engine acts. A method is a dataclass: its fields are its configuration (Hydra's schema),
which never changes after composition; its few functions return data. The state of a run is a separate object (`begin`).
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

rebuild: at a change a new optimizer is built over the planned parameters; memory is held for those only.
skip: every trainable parameter keeps its optimizer state; a step does not update parameters outside the plan.
static: the plan never changes.
"""


@dataclass(frozen=True)
class Plan:
    """The parameters that train until the next plan.

    units: module paths inside the decoder, `layers.3` or `layers.3.self_attn.q_proj`; layer 0 is nearest the embedding.
    always: parts outside the blocks that train as well (EMBEDDING, NORM, HEAD).
    frozen: units inside `units` that do not train.
    draw: number of the draw behind this plan. Plans that differ in it are different plans, even with the same units.
    """

    units: frozenset[str]
    always: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()
    draw: int = 0


@dataclass(frozen=True)
class SwitchPolicy:
    """The treatment of optimizer state when a rebuild switches the plan.

    moments: `keep` (parameters that stay active keep their Adam state) or `reset` (all state fresh: the LISA paper's
        runs).
    masters: `carry` (fp32 masters of parameters that leave are parked in host memory) or `drop` (they are rounded to
        the weights' dtype).
    """

    moments: str = "keep"
    masters: str = "carry"


@dataclass(frozen=True)
class OptimizerSpec:
    """The optimizer of a method.

    kind: its class. options: further group options of one parameter, from its canonical name and full shape.
    """

    kind: type[AdamW]
    options: Callable[[str, tuple[int, ...]], dict[str, Any]] = lambda name, shape: {}  # noqa: ARG005


@dataclass(frozen=True)
class Context:
    """The inputs of a method's hooks during training.

    probe: `probe(scales, batch) -> nats per target token` on probe batch number `batch` (a pure function of the
        number), with the adapter response of each unit in `scales` multiplied by its factor. No gradient.
    response_gradient: the same loss and its derivative with respect to every factor.
    state: the return value of `Method.begin`.
    """

    shape: Shape
    seed: int
    probe: Callable[[Mapping[str, float], int], float]
    response_gradient: Callable[[Mapping[str, float], int], tuple[float, dict[str, float]]]
    state: Any = None


@dataclass
class Method:
    """Base class, with defaults for every hook: all parameters train and the plan never changes."""

    seed: int | None = None
    """Seed of layer draws and adapter initialisation; follows the run's seed unless set."""

    switching: ClassVar[str] = STATIC
    needs_matrices: ClassVar[bool] = False
    """True if the optimizer needs whole matrices: engines that flatten parameters refuse the method."""
    trains: ClassVar[bool] = True
    ranks: ClassVar[str | None] = None
    """The units scored by the `ranking` in its findings, `block` or `module`; None if it makes no ranking."""
    unsupported_engines: ClassVar[tuple[str, ...]] = ()

    @property
    def resolved_seed(self) -> int:
        """The seed as an integer; `RunConfig` fills it in, so a method outside a run has none."""
        assert self.seed is not None, "the seed of a method outside a run is not resolved"
        return self.seed

    # The hooks. A method overrides one or two of them.

    def check(self, shape: Shape) -> None:
        """Raise UserError if the settings are invalid for a model of this shape.

        Called when a run is composed, and again when its model is about to be loaded.
        """

    def rankings(self) -> Rankings | None:
        """Return the source of the rankings that the method needs, None if it needs none.

        Called when runs are ordered by their dependencies, and before `begin`.
        """
        return None

    def probe_source(self) -> tuple[str, int] | None:
        """Return the split of probe batches (`train` or `validation`) and their size in sequences, None without probes.

        Called when a run is composed, and before its first step.
        """
        return None

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Any:
        """Return the state of a new run, a data class of plain values, or None for a method without state.

        Called once, before `adapt`, with the findings that `rankings` names. Later hooks may change the fields of the
        state; checkpoints save them.
        """
        return None

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Insert adapters or freeze parameters; a plan can only train parameters that are trainable afterwards.

        Called once, before any engine exists.
        """
        return model

    def optimizer(self, shape: Shape) -> OptimizerSpec:
        """Return the optimizer class and its group options. Called once, when an engine is made."""
        from layerfit.optimizers.adamw import AdamW

        return OptimizerSpec(AdamW)

    def switch_policy(self) -> SwitchPolicy:
        """Return the treatment of optimizer state. Called at every switch of a method that rebuilds."""
        return SwitchPolicy()

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return the plan of optimizer step `step` (0-based). Called once before every step, in order."""
        return Plan(layer_units(range(ctx.shape.num_layers)), (EMBEDDING, NORM, HEAD))

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return a regularisation term to add to the loss, or None. Called once in every step.

        It depends on the weights alone and is not part of the reported loss. Weights are whole, not shards, only if
        the method `needs_matrices`.
        """
        return None

    def after_step(self, step: int, ctx: Context) -> bool:
        """Run probes or update the state; return True to end training. Called after every optimizer step."""
        return False

    def findings(self, model: nn.Module, anatomy: Anatomy, state: Any) -> dict[str, Any]:
        """Return the findings of the run (scores, rankings) as JSON values; they are part of the record's result.

        Called once, after training and evaluation, on the rank that writes the record.
        """
        return {}
