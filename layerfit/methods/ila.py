"""ILA: rank the linear modules, then freeze the unimportant ones (Shi et al., arXiv:2410.17875, Algorithm 1).

`ILARanking` is a separate run. Stage 1: LoRA until the loss is epsilon-stable (Definition 1). Stage 2: everything
is frozen and a mask gamma = sigmoid(s) over the linear modules is learned on theta_0 + gamma * delta (Eq. 7).
`ILA` reads one or several such rankings and freezes the least important modules, over LoRA or over full fine-tuning;
its controls freeze the same number of other modules.
s_0, optimizer and penalty, which the paper does not give, are configuration; reasons: `conf/method/ila.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import EMBEDDING, HEAD, NORM, Shape, block_of, layer_units
from layerfit.errors import UserError, check_one_of, check_range
from layerfit.files.paths import PATH
from layerfit.importance.choice import ENDS, UNRANKED, by_importance, mean_ranks, shared, unranked
from layerfit.importance.mask import MaskSettings, learn_ranking
from layerfit.methods.base import Context, Plan
from layerfit.methods.lora import LowRank
from layerfit.methods.rankings import MODULE, Rankings

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy


@dataclass
class Stages:
    """State of stages 1 and 2. losses: on the fixed probe batches, one per window; milestones: rankings by fraction."""

    stable_at: int | None = None
    losses: list[float] = field(default_factory=list)
    milestones: dict[str, Any] = field(default_factory=dict)
    ranking: dict[str, Any] | None = None
    stage1_steps: int | None = None


@dataclass
class ILARanking(LowRank):
    """Stages 1 and 2: LoRA until stable, then a mask over the linear modules."""

    epsilon: float = 1e-3
    window: int = 10
    mask_init: float = 2.0
    mask_lr: float = 1.0
    mask_steps: int = 20
    mask_optimizer: str = "sgd"
    mask_penalty: float = 0.0
    mask_data: str = "train"
    mask_batch_size: int = 16
    milestones: list[float] = field(default_factory=list)
    """Fractions of training after which a ranking is learned as well; if any are set, stage 1 does not stop early."""

    ranks: ClassVar[str | None] = MODULE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("method.epsilon", self.epsilon, 0)
        check_range("method.window", self.window, 1)
        check_range("method.mask_lr", self.mask_lr, 0, low_open=True)
        check_range("method.mask_init", self.mask_init, -20, 20)
        check_range("method.mask_steps", self.mask_steps, 1)
        check_one_of("method.mask_optimizer", self.mask_optimizer, ("sgd", "adam"))
        check_range("method.mask_penalty", self.mask_penalty, 0)
        check_one_of("method.mask_data", self.mask_data, ("train", "validation"))
        check_range("method.mask_batch_size", self.mask_batch_size, 1)
        for fraction in self.milestones:
            check_range("method.milestones", fraction, 0, 1, low_open=True)

    def probe_source(self) -> tuple[str, int] | None:
        """Return the configured split and size."""
        return self.mask_data, self.mask_batch_size

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Any:
        """Return empty stages."""
        return Stages()

    def after_step(self, step: int, ctx: Context) -> bool:
        """Check for stability; learn a ranking at milestones and at the end."""
        state: Stages = ctx.state
        done, last = step + 1, step + 1 == ctx.shape.num_steps
        if done % self.window == 0:
            state.losses.append(sum(ctx.probe({}, batch) for batch in range(4)) / 4)
            if state.stable_at is None and len(state.losses) > 1:
                change = abs(state.losses[-1] - state.losses[-2]) / self.window
                state.stable_at = done if change < self.epsilon else None
        for fraction in self.milestones:
            if done == max(1, round(fraction * ctx.shape.num_steps)):
                state.milestones[f"{fraction:g}"] = learn_ranking(self._settings(), ctx)
        ends = last or (state.stable_at == done and not self.milestones)
        if ends:
            state.ranking = learn_ranking(self._settings(), ctx)
            state.stage1_steps = done
        return ends

    def _settings(self) -> MaskSettings:
        return MaskSettings(
            init=self.mask_init,
            lr=self.mask_lr,
            steps=self.mask_steps,
            optimizer=self.mask_optimizer,
            penalty=self.mask_penalty,
            targets=tuple(self.targets),
        )

    def findings(self, model: nn.Module, anatomy: Anatomy, state: Any) -> dict[str, Any]:
        """Return the ranking (scores s by unit, with their reliability), milestones, and the step of stability."""
        return asdict(state)


@dataclass
class Frozen:
    """The linear modules that freeze, in the model's order."""

    units: list[str]


@dataclass(frozen=True)
class CombinedRankings(Rankings):
    """Several rankings and the rule that combines them (`ILA.combine`)."""

    combine: str = "intersection"

    def check_number(self, number: int, *, own: bool) -> None:
        """Raise UserError if `combine` has no effect, or the ranking that it needs is missing."""
        if number == 1 and self.combine != "intersection":
            raise UserError(
                f"method.combine={self.combine} needs several rankings and there is one; "
                "name the data of the others, +dataset@ranking_data.NAME=..., or leave it out"
            )
        if self.combine == "matched" and not own:
            raise UserError(
                "method.combine=matched uses the ranking of the run's own data; name it too, "
                "+dataset@ranking_data.NAME=... as dataset=..."
            )


@dataclass
class ILA(ILARanking):
    """The fine-tuning run: freeze some linear modules, by default the least important of a ranking."""

    ranking: str = field(default="auto", metadata={"identity": "content", **PATH})
    """`auto` (a separate ranking run comes first), or the path of a ranking file."""
    base: str = "lora"
    freeze_fraction: float | None = 0.25
    train_fraction: float | None = None
    freeze: str = field(default="least", metadata={"since": "controls of the frozen set"})
    """The modules to freeze: least or most important ones, or, without a ranking, random, first or last ones."""
    combine: str = field(default="intersection", metadata={"since": "rankings from other data"})
    """How several rankings (`ranking_data`) give one frozen set. intersection: modules frozen under every ranking, so
    fewer; mean_rank: the usual number, by mean rank; matched: as many as the intersection, by the ranking of the run's
    own data."""

    ranks: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("method.base", self.base, ("lora", "full"))
        check_one_of("method.freeze", self.freeze, ENDS + UNRANKED)
        check_one_of("method.combine", self.combine, ("intersection", "mean_rank", "matched"))
        if (self.freeze_fraction is None) == (self.train_fraction is None):
            raise UserError("set exactly one of method.freeze_fraction and method.train_fraction; the other is null")
        name = "method.freeze_fraction" if self.train_fraction is None else "method.train_fraction"
        value = self.freeze_fraction if self.train_fraction is None else self.train_fraction
        assert value is not None
        check_range(name, value, 0, 1, low_open=True, high_open=True)
        if self.freeze in UNRANKED:
            self._reset_ranking_settings()

    def _reset_ranking_settings(self) -> None:
        """Set the fields that only a ranking uses to their defaults."""
        # They are part of the run id, and without a ranking they have no effect on the result.
        kept = {f.name for f in fields(LowRank)} | {"base", "freeze_fraction", "train_fraction", "freeze"}
        for f in fields(self):
            if f.name not in kept:
                setattr(self, f.name, f.default_factory() if f.default_factory is not MISSING else f.default)

    def probe_source(self) -> tuple[str, int] | None:
        """Return None: all probes belong to the ranking run."""
        return None

    def rankings(self) -> Rankings | None:
        """Return the ranking of a run (one run per data set) or of a file; None for a control without ranking."""
        if self.freeze in UNRANKED:
            return None
        if self.ranking != "auto":
            return CombinedRankings(MODULE, tuple(self.targets), path=self.ranking, combine=self.combine)
        run = ILARanking(**{f.name: getattr(self, f.name) for f in fields(ILARanking)})
        return CombinedRankings(MODULE, tuple(self.targets), run=run, combine=self.combine)

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Any:
        """Return the frozen modules, which do not change during the run.

        Raises:
            UserError: if the findings hold no ranking, or one of another model.
        """
        source, units = self.rankings(), shape.modules(self.targets)
        frozen = self.frozen_units(units, [] if source is None else source.read(findings, shape))
        return Frozen([unit for unit in units if unit in frozen])

    def _count(self, number: int) -> int:
        """Return how many of `number` modules freeze."""
        return round(self._fraction() * number)

    def _fraction(self) -> float:
        if self.freeze_fraction is not None:
            return self.freeze_fraction
        assert self.train_fraction is not None, "one of the two is set"
        return 1 - self.train_fraction

    def frozen_units(self, units: list[str], rankings: list[dict[str, float]]) -> frozenset[str]:
        """Return the modules among `units` (in the model's order) to freeze. An intersection may be empty."""
        count = self._count(len(units))
        if self.freeze in UNRANKED:
            return unranked(units, count, self.freeze, self.resolved_seed)
        if self.combine == "mean_rank":
            return by_importance(mean_ranks(rankings), count, self.freeze)
        common = shared(rankings, count, self.freeze)
        return common if self.combine == "intersection" else by_importance(rankings[0], len(common), self.freeze)

    def adapted_modules(self, anatomy: Anatomy, state: Frozen) -> list[str]:
        """Return the modules that are not frozen; a frozen module gets no adapter at all."""
        return [unit for unit in anatomy.modules(self.targets) if unit not in state.units]

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """With `base=lora` insert adapters; with `base=full` return the model unchanged."""
        return model if self.base == "full" else self.insert(model, anatomy, self.adapted_modules(anatomy, state))

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return a plan without the frozen modules; with `base=full`, embedding, norms and head train too."""
        frozen = frozenset(ctx.state.units)
        if self.base == "lora":  # only blocks with an adapter: `freeze=first` leaves whole blocks without
            return Plan(frozenset(block_of(u) for u in ctx.shape.modules(self.targets) if u not in frozen))
        layers = layer_units(range(ctx.shape.num_layers))
        return Plan(layers, (EMBEDDING, NORM, HEAD), frozen=frozen)

    def after_step(self, step: int, ctx: Context) -> bool:
        """Return False: the ranking exists already, so training runs to its end."""
        return False

    def findings(self, model: nn.Module, anatomy: Anatomy, state: Any) -> dict[str, Any]:
        """Return `frozen`, the frozen modules in the model's order, and `num_frozen`."""
        return {"frozen": state.units, "num_frozen": len(state.units)}

    def check(self, shape: Shape) -> None:
        """Raise UserError if rounding would freeze nothing or everything."""
        super().check(shape)
        number = len(shape.modules(self.targets))
        frozen = self._count(number)
        if not 0 < frozen < number:
            raise UserError(
                f"method.freeze_fraction={self._fraction():g} freezes {frozen} of {number} modules; "
                f"freeze 1 to {number - 1}, a fraction from {1 / number:.2g} to {1 - 1 / number:.2g}"
            )
