"""ILA: find the unimportant linear modules, then fine-tune without them (Shi et al., arXiv:2410.17875, Algorithm 1).

`ILARanking` is a run of its own. Stage 1: LoRA until the loss is epsilon-stable (Definition 1). Stage 2: everything
is frozen and a mask gamma = sigmoid(s) over the linear modules is learned on theta_0 + gamma * delta (Eq. 7).
`ILA` reads such a ranking and freezes the least important modules, over LoRA or over full fine-tuning.
What the paper leaves open (s_0, optimizer, penalty) is configuration: `conf/method/ila.yaml` gives the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from layerfit.errors import UserError, check_one_of, check_range
from layerfit.importance.mask import MaskSettings, learn_ranking
from layerfit.methods.base import EMBEDDING, HEAD, NORM, Context, Insert, Method, Plan, Shape, layer_units
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
    """The fine-tune: freeze the least important modules of a ranking."""

    ranking: str = field(default="auto", metadata={"identity": "content"})
    """`auto` (a ranking run of its own comes first), or the path of a ranking file."""
    base: str = "lora"
    freeze_fraction: float | None = 0.25
    train_fraction: float | None = None
    _importance: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("method.base", self.base, ("lora", "full"))
        if (self.freeze_fraction is None) == (self.train_fraction is None):
            raise UserError("set exactly one of method.freeze_fraction and method.train_fraction; the other is null")
        name = "method.freeze_fraction" if self.train_fraction is None else "method.train_fraction"
        value = self.freeze_fraction if self.train_fraction is None else self.train_fraction
        assert value is not None
        check_range(name, value, 0, 1, low_open=True, high_open=True)

    def requires(self) -> Method | None:
        """The ranking run, unless a ranking is given."""
        if self.ranking != "auto":
            return None
        return ILARanking(**{f.name: getattr(self, f.name) for f in fields(ILARanking) if f.init})

    def reads(self) -> str | None:
        """The given ranking's path."""
        return None if self.ranking == "auto" else self.ranking

    def receive(self, findings: dict[str, Any], shape: Shape) -> None:
        """Take the scores of a ranking run or file.

        Raises:
            UserError: if there are none, or they are of another model.
        """
        scores = (findings.get("ranking") or findings).get("scores")
        if not isinstance(scores, dict) or not scores:
            raise UserError(f"method.ranking={self.ranking!r} holds no `scores`; give a file of results/rankings/")
        self._importance = {str(unit): float(score) for unit, score in scores.items()}
        self.frozen_units([u for u in shape.modules() if not self.targets or u.rpartition(".")[2] in self.targets])

    def frozen_units(self, units: list[str]) -> frozenset[str]:
        """Return the least important of `units`.

        Raises:
            UserError: if the ranking does not score exactly these units.
        """
        if set(units) != set(self._importance):
            raise UserError(
                f"method.ranking={self.ranking!r} scores {len(self._importance)} modules, "
                f"this model has {len(units)} with other names; rank this model"
            )
        fraction = self.freeze_fraction if self.freeze_fraction is not None else 1 - (self.train_fraction or 0)
        ascending = sorted(units, key=lambda unit: (self._importance[unit], unit))
        return frozenset(ascending[: round(fraction * len(units))])

    def adapted_modules(self, anatomy: Anatomy) -> list[str]:
        """The modules that are not frozen; a frozen module gets no adapter at all."""
        units = super().adapted_modules(anatomy)
        frozen = self.frozen_units(units)
        return [unit for unit in units if unit not in frozen]

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Insert adapters over LoRA; leave the model as it is over full fine-tuning."""
        return super().adapt(model, anatomy) if self.base == "lora" else model

    def inserts(self, anatomy: Anatomy, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Insert]:
        """As `adapt` does."""
        return super().inserts(anatomy, shapes) if self.base == "lora" else {}

    def plan(self, step: int, ctx: Context) -> Plan:
        """Everything but the frozen modules; over `full`, embedding, norms and head train too."""
        layers = layer_units(range(ctx.shape.num_layers))
        if self.base == "lora":
            return Plan(layers)
        units = [u for u in ctx.shape.modules() if not self.targets or u.rpartition(".")[2] in self.targets]
        return Plan(layers, (EMBEDDING, NORM, HEAD), frozen=self.frozen_units(units))

    def after_step(self, step: int, ctx: Context) -> bool:
        """Nothing: the ranking was made before."""
        return False

    def check(self, shape: Shape) -> None:
        """Raise UserError if rounding would freeze nothing or everything."""
        super().check(shape)
        count = len([u for u in shape.modules() if not self.targets or u.rpartition(".")[2] in self.targets])
        fraction = self.freeze_fraction if self.freeze_fraction is not None else 1 - (self.train_fraction or 0)
        frozen = round(fraction * count)
        if not 0 < frozen < count:
            raise UserError(
                f"method.freeze_fraction={fraction:g} freezes {frozen} of {count} modules; freeze 1 to {count - 1}, "
                f"a fraction from {1 / count:.2g} to {1 - 1 / count:.2g}"
            )
