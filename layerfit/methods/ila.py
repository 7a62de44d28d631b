"""ILA: find the unimportant linear modules, then fine-tune without them (Shi et al., arXiv:2410.17875, Algorithm 1).

`ILARanking` is a run of its own. Stage 1: LoRA until the loss is epsilon-stable (Definition 1). Stage 2: everything
is frozen and a mask gamma = sigmoid(s) over the linear modules is learned on theta_0 + gamma * delta (Eq. 7).
`ILA` reads one or several such rankings and freezes the least important modules, over LoRA or over full fine-tuning;
its controls freeze as many others.
What the paper leaves open (s_0, optimizer, penalty) is configuration: `conf/method/ila.yaml` gives the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import EMBEDDING, HEAD, NORM, Shape, block_of, layer_units
from layerfit.errors import UserError, check_one_of, check_range
from layerfit.importance.choice import ENDS, PLACES, at_end, at_place, mean_ranks, shared
from layerfit.importance.mask import MaskSettings, learn_ranking
from layerfit.methods.base import Context, Plan
from layerfit.methods.lora import LowRank
from layerfit.methods.rankings import MODULE, Rankings

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy


@dataclass
class Stages:
    """What stages 1 and 2 have found so far. losses: on the fixed batches, one a window; milestones: rankings."""

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
    """Fractions of the training after which a ranking is learned as well; with any, stage 1 runs to its end."""

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
        """As configured."""
        return self.mask_data, self.mask_batch_size

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Any:
        """Nothing is known yet."""
        return Stages()

    def after_step(self, step: int, ctx: Context) -> bool:
        """Watch for stability; learn the mask at milestones and at the end."""
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
        """The ranking (scores s by unit, with their reliability), milestones, and when stage 1 became stable."""
        return asdict(state)


@dataclass
class Frozen:
    """The linear modules that freeze, in the model's order."""

    units: list[str]


@dataclass(frozen=True)
class CombinedRankings(Rankings):
    """Several rankings that become one set. combine: how."""

    combine: str = "intersection"

    def check_number(self, number: int, *, own: bool) -> None:
        """Raise UserError if `combine` says nothing, or lacks the ranking that it goes by."""
        if number == 1 and self.combine != "intersection":
            raise UserError(
                f"method.combine={self.combine} is for several rankings and there is one; "
                "name the data of the others, +dataset@ranking_data.NAME=..., or leave it out"
            )
        if self.combine == "matched" and not own:
            raise UserError(
                "method.combine=matched goes by the ranking of the run's own data; name it too, "
                "+dataset@ranking_data.NAME=... as dataset=..."
            )


@dataclass
class ILA(ILARanking):
    """The fine-tune: freeze some of the linear modules, by default the least important of a ranking."""

    ranking: str = field(default="auto", metadata={"identity": "content"})
    """`auto` (a ranking run of its own comes first), or the path of a ranking file."""
    base: str = "lora"
    freeze_fraction: float | None = 0.25
    train_fraction: float | None = None
    freeze: str = field(default="least", metadata={"since": "controls of the frozen set"})
    """Which modules freeze: least or most important, or, without any ranking, random, first or last ones."""
    combine: str = field(default="intersection", metadata={"since": "rankings from other data"})
    """What several rankings freeze (`ranking_data`): what all of them would (fewer, that is); mean_rank: as many as one
    of them, by the mean of their ranks; matched: as many as all of them would, by the run's own data's ranking."""

    ranks: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("method.base", self.base, ("lora", "full"))
        check_one_of("method.freeze", self.freeze, ENDS + PLACES)
        check_one_of("method.combine", self.combine, ("intersection", "mean_rank", "matched"))
        if (self.freeze_fraction is None) == (self.train_fraction is None):
            raise UserError("set exactly one of method.freeze_fraction and method.train_fraction; the other is null")
        name = "method.freeze_fraction" if self.train_fraction is None else "method.train_fraction"
        value = self.freeze_fraction if self.train_fraction is None else self.train_fraction
        assert value is not None
        check_range(name, value, 0, 1, low_open=True, high_open=True)
        if self.freeze in PLACES:
            self._forget_ranking()

    def _forget_ranking(self) -> None:
        """Put what says how a ranking is made and used at its default: it decides nothing of a run without one."""
        kept = {f.name for f in fields(LowRank)} | {"base", "freeze_fraction", "train_fraction", "freeze"}
        for f in fields(self):
            if f.name not in kept:
                setattr(self, f.name, f.default_factory() if f.default_factory is not MISSING else f.default)

    def probe_source(self) -> tuple[str, int] | None:
        """The ranking's run has made all probes."""
        return None

    def rankings(self) -> Rankings | None:
        """Those of a run (or of a run for each of several data sets), or of a file; none for a control."""
        if self.freeze in PLACES:
            return None
        if self.ranking != "auto":
            return CombinedRankings(MODULE, tuple(self.targets), path=self.ranking, combine=self.combine)
        run = ILARanking(**{f.name: getattr(self, f.name) for f in fields(ILARanking)})
        return CombinedRankings(MODULE, tuple(self.targets), run=run, combine=self.combine)

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Any:
        """The frozen modules, for the whole run.

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
        """Return which of `units`, in the model's order, freeze by some rankings. An intersection may be empty."""
        count = self._count(len(units))
        if self.freeze in PLACES:
            return at_place(units, count, self.freeze, self.resolved_seed)
        if self.combine == "mean_rank":
            return at_end(mean_ranks(rankings), count, self.freeze)
        common = shared(rankings, count, self.freeze)
        return common if self.combine == "intersection" else at_end(rankings[0], len(common), self.freeze)

    def adapted_modules(self, anatomy: Anatomy, state: Frozen) -> list[str]:
        """Return the modules that are not frozen; a frozen module gets no adapter at all."""
        return [unit for unit in anatomy.modules(self.targets) if unit not in state.units]

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Insert adapters over LoRA; leave the model as it is over full fine-tuning."""
        return model if self.base == "full" else self.insert(model, anatomy, self.adapted_modules(anatomy, state))

    def plan(self, step: int, ctx: Context) -> Plan:
        """Everything but the frozen modules; over `full`, embedding, norms and head train too."""
        frozen = frozenset(ctx.state.units)
        if self.base == "lora":  # blocks that have an adapter: the first quarter of modules is a quarter of the blocks
            return Plan(frozenset(block_of(u) for u in ctx.shape.modules(self.targets) if u not in frozen))
        layers = layer_units(range(ctx.shape.num_layers))
        return Plan(layers, (EMBEDDING, NORM, HEAD), frozen=frozen)

    def after_step(self, step: int, ctx: Context) -> bool:
        """Nothing: the ranking was made before."""
        return False

    def findings(self, model: nn.Module, anatomy: Anatomy, state: Any) -> dict[str, Any]:
        """The frozen modules, in the model's order."""
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
