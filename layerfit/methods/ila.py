"""ILA: find the unimportant linear modules, then fine-tune without them (Shi et al., arXiv:2410.17875, Algorithm 1).

`ILARanking` is a run of its own. Stage 1: LoRA until the loss is epsilon-stable (Definition 1). Stage 2: everything
is frozen and a mask gamma = sigmoid(s) over the linear modules is learned on theta_0 + gamma * delta (Eq. 7).
`ILA` reads one or several such rankings and freezes the least important modules, over LoRA or over full fine-tuning;
its controls freeze as many others.
What the paper leaves open (s_0, optimizer, penalty) is configuration: `conf/method/ila.yaml` gives the reasons.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import EMBEDDING, HEAD, NORM, Shape, block_of, layer_units
from layerfit.errors import UserError, check_one_of, check_range
from layerfit.importance.choice import ENDS, PLACES, at_end, at_place, mean_ranks, read_scores, shared
from layerfit.importance.mask import MaskSettings, learn_ranking
from layerfit.methods.base import Context, Method, Plan
from layerfit.methods.lora import LowRank

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy


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
    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False, metadata={"identity": False})

    ranks: ClassVar[str | None] = "module"

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

    def probe_source(self) -> tuple[str, int]:
        """As configured."""
        return self.mask_data, self.mask_batch_size

    def after_step(self, step: int, ctx: Context) -> bool:
        """Watch for stability; learn the mask at milestones and at the end."""
        state = self._state = self._state or {
            "stable_at": None,
            "losses": [],
            "milestones": {},
            "ranking": None,
        }
        done, last = step + 1, step + 1 == ctx.shape.num_steps
        if done % self.window == 0:
            state["losses"].append(sum(ctx.probe({}, batch) for batch in range(4)) / 4)
            if state["stable_at"] is None and len(state["losses"]) > 1:
                change = abs(state["losses"][-1] - state["losses"][-2]) / self.window
                state["stable_at"] = done if change < self.epsilon else None
        for fraction in self.milestones:
            if done == max(1, round(fraction * ctx.shape.num_steps)):
                state["milestones"][f"{fraction:g}"] = learn_ranking(self._settings(), ctx)
        ends = last or (state["stable_at"] == done and not self.milestones)
        if ends:
            state["ranking"] = learn_ranking(self._settings(), ctx)
            state["stage1_steps"] = done
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

    def findings(self) -> dict[str, Any]:
        """The ranking (scores s by unit, with their reliability), milestones, and when stage 1 became stable."""
        return dict(self._state)

    def state_dict(self) -> dict[str, Any]:
        """Everything found so far."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what was found."""
        self._state = dict(state)


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
    _rankings: list[dict[str, float]] = field(
        default_factory=list, init=False, repr=False, metadata={"identity": False}
    )
    _frozen: list[str] = field(default_factory=list, init=False, repr=False, metadata={"identity": False})

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

    def requires(self) -> Method | None:
        """The ranking run, unless a ranking is given or none is needed."""
        if self.ranking != "auto" or self.freeze in PLACES:
            return None
        return ILARanking(**{f.name: getattr(self, f.name) for f in fields(ILARanking) if f.init})

    def check_rankings(self, number: int, *, own: bool) -> None:
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

    def reads(self) -> str | None:
        """The given ranking's path."""
        return None if self.ranking == "auto" else self.ranking

    def receive(self, findings: list[dict[str, Any]], shape: Shape) -> None:
        """Take the scores of ranking runs or of a file.

        Raises:
            UserError: if there are none, or they are of another model.
        """
        try:
            self._rankings = [read_scores(found, self.universe(shape)) for found in findings]
        except ValueError as error:
            raise UserError(f"method.ranking={self.ranking!r} {error}") from error

    def universe(self, shape: Shape) -> list[str]:
        """Return the linear modules that are chosen from, in the model's order."""
        return [u for u in shape.modules() if not self.targets or u.rpartition(".")[2] in self.targets]

    def _count(self, number: int) -> int:
        """Return how many of `number` modules freeze."""
        return round(self._fraction() * number)

    def _fraction(self) -> float:
        return self.freeze_fraction if self.freeze_fraction is not None else 1 - (self.train_fraction or 0)

    def frozen_units(self, units: list[str]) -> frozenset[str]:
        """Return which of `units`, in the model's order, freeze. An intersection may be empty."""
        count = self._count(len(units))
        if self.freeze in PLACES:
            return at_place(units, count, self.freeze, self.seed or 0)
        if self.combine == "mean_rank":
            return at_end(mean_ranks(self._rankings), count, self.freeze)
        common = shared(self._rankings, count, self.freeze)
        return common if self.combine == "intersection" else at_end(self._rankings[0], len(common), self.freeze)

    def adapted_modules(self, anatomy: Anatomy) -> list[str]:
        """The modules that are not frozen; a frozen module gets no adapter at all."""
        units = super().adapted_modules(anatomy)
        frozen = self.frozen_units(units)
        return [unit for unit in units if unit not in frozen]

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Insert adapters over LoRA; leave the model as it is over full fine-tuning."""
        frozen = self.frozen_units(units := self.universe(anatomy.shape(num_steps=0)))
        self._frozen = [unit for unit in units if unit in frozen]
        return super().adapt(model, anatomy) if self.base == "lora" else model

    def plan(self, step: int, ctx: Context) -> Plan:
        """Everything but the frozen modules; over `full`, embedding, norms and head train too."""
        frozen = frozenset(self._frozen)
        if self.base == "lora":  # blocks that have an adapter: the first quarter of modules is a quarter of the blocks
            return Plan(frozenset(block_of(u) for u in self.universe(ctx.shape) if u not in frozen))
        layers = layer_units(range(ctx.shape.num_layers))
        return Plan(layers, (EMBEDDING, NORM, HEAD), frozen=frozen)

    def after_step(self, step: int, ctx: Context) -> bool:
        """Nothing: the ranking was made before."""
        return False

    def findings(self) -> dict[str, Any]:
        """What was frozen, in the model's order."""
        return {"frozen": self._frozen, "num_frozen": len(self._frozen)}

    def check(self, shape: Shape) -> None:
        """Raise UserError if rounding would freeze nothing or everything."""
        super().check(shape)
        number = len(self.universe(shape))
        frozen = self._count(number)
        if not 0 < frozen < number:
            raise UserError(
                f"method.freeze_fraction={self._fraction():g} freezes {frozen} of {number} modules; "
                f"freeze 1 to {number - 1}, a fraction from {1 / number:.2g} to {1 - 1 / number:.2g}"
            )
