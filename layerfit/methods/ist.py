"""IST: importance-aware sparse tuning of adapters (Yao et al., arXiv:2410.11772; released code antgroup, 2024-12).

Over LoRA, series or parallel adapters (`base`). Two loops. Fine-tuning: every step trains the adapters of
`num_updated` blocks, drawn without replacement in proportion to sigmoid(I). Importance: every `update_every` steps, on
one probe batch, `num_candidates` (N_c) subsets S_c^j keep their response while the other blocks' adapters are scaled by
beta; r^j = exp(-L^j) - mean_k exp(-L^k), and I_i += mu r^j for i in S_c^j (`update=paper`). The released code updates
the suppressed blocks instead, by -mu r^j p (1 - p) with p = sigmoid(-I) (`update=released`); as the r^j sum to zero,
both rules move every score in the same direction.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from layerfit.anatomy import Shape, layer_units
from layerfit.errors import UserError, check_one_of, check_range
from layerfit.methods.base import SKIP, Context, Method, Plan
from layerfit.methods.bottleneck import Parallel, Series
from layerfit.methods.lora import LowRank

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy

BASES: dict[str, type[Method]] = {"lora": LowRank, "series": Series, "parallel": Parallel}
_SINCE = {"since": "series and parallel bases"}
UNIFORM_BELOW = 1.5
"""Sampling counts as uniform if the odds ratio of the likeliest to the least likely block is below this."""
TINY = 2.0**-53
"""Replaces a random number that is exactly 0, whose logarithm does not exist."""


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_sigmoid(x: float) -> float:
    """Return log(sigmoid(x)), without overflow or underflow."""
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def draw_weighted(log_weights: list[float], count: int, rng: random.Random) -> frozenset[int]:
    """Draw `count` indices without replacement, one after another in proportion to their weights.

    By exponential keys (Efraimidis & Spirakis 2006): the same distribution as sequential draws without replacement.
    """
    # In logarithms, so that a weight that would underflow can still be drawn.
    keys = [math.log(-math.log(rng.random() or TINY)) - w for w in log_weights]
    return frozenset(sorted(range(len(keys)), key=keys.__getitem__)[:count])


def rewards(losses: list[float]) -> list[float]:
    """Return r^j = exp(-L^j) - mean_k exp(-L^k); they sum to zero."""
    gains = [math.exp(-loss) for loss in losses]
    mean = math.fsum(gains) / len(gains)
    return [g - mean for g in gains]


def updated(
    scores: list[float], suppressed: list[frozenset[int]], losses: list[float], *, mu: float, rule: str
) -> list[float]:
    """Return the importance scores after one importance update. The two rules: see the module's docstring."""
    out = list(scores)
    for reward, low in zip(rewards(losses), suppressed, strict=True):
        for i, score in enumerate(scores):
            if rule == "paper" and i not in low:
                out[i] += mu * reward
            elif rule == "released" and i in low:
                p = sigmoid(-score)
                out[i] -= mu * reward * p * (1 - p)
    return out


def _count(name: str, value: float, num_layers: int) -> int:
    """Return a number of blocks from a fraction of depth in (0, 1) or a count >= 1."""
    count = round(value * num_layers) if value < 1 else int(value)
    if (value >= 1 and value != count) or not 1 <= count <= num_layers:
        raise UserError(
            f"{name}={value:g} gives {count} of {num_layers} layers; use a fraction in (0, 1) or 1..{num_layers}"
        )
    return count


@dataclass
class Importance:
    """Importance scores I, one per block; history: [step, I] at every importance update, to 6 decimals."""

    scores: list[float]
    history: list[list[Any]] = field(default_factory=list)


@dataclass
class IST(LowRank):
    """See the module's docstring; sources of the defaults: `conf/method/ist.yaml`."""

    base: str = "lora"
    update: str = "paper"
    policy: str = "ist"
    num_updated: float = 0.25  # N_u
    num_suppressed: float = 0.5  # N_L - |S_c|
    beta: float = 0.25
    num_candidates: int = 3  # N_c
    mu: float = 2.5
    update_every: int = 10
    probe_data: str = "train"
    probe_batch_size: int = 16
    size: int = field(default=256, metadata=_SINCE)
    activation: str = field(default="tanh", metadata=_SINCE)
    scale: float = field(default=1.0, metadata=_SINCE)
    init: str = field(default="zero", metadata=_SINCE)

    switching: ClassVar[str] = SKIP

    def __post_init__(self) -> None:
        check_one_of("method.base", self.base, tuple(BASES))
        self._check_base()
        check_one_of("method.update", self.update, ("paper", "released"))
        check_one_of("method.policy", self.policy, ("ist", "uniform", "fixed"))
        check_one_of("method.probe_data", self.probe_data, ("train", "validation"))
        check_range("method.num_updated", self.num_updated, 0, low_open=True)
        check_range("method.num_suppressed", self.num_suppressed, 0, low_open=True)
        check_range("method.beta", self.beta, 0, 1, high_open=True)
        check_range("method.num_candidates", self.num_candidates, 2)
        check_range("method.mu", self.mu, 0, low_open=True)
        check_range("method.update_every", self.update_every, 1)
        check_range("method.probe_batch_size", self.probe_batch_size, 1)

    def _over(self, base: str) -> Method:
        """Return the method that inserts the adapters of a base, with the settings of this one."""
        return BASES[base](**{f.name: getattr(self, f.name) for f in fields(BASES[base]) if f.init})

    def _check_base(self) -> None:
        """Raise UserError if an adapter setting is invalid, or belongs to another base and is not at its default."""
        taken = {base: {f.name for f in fields(self._over(base))} for base in BASES}
        for f in fields(self):
            owners = [base for base in BASES if f.name in taken[base]]
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            if owners and self.base not in owners and getattr(self, f.name) != default:
                raise UserError(
                    f"method.{f.name}={getattr(self, f.name)!r} goes with method.base={' or '.join(owners)}, "
                    f"not with {self.base}, which has: {', '.join(sorted(taken[self.base] - {'seed'}))}"
                )

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Any) -> nn.Module:
        """Insert the base's adapters."""
        return self._over(self.base).adapt(model, anatomy, state)

    def check(self, shape: Shape) -> None:
        """Raise UserError unless the fractions give valid numbers of layers and enough distinct subsets exist."""
        self._over(self.base).check(shape)
        _count("method.num_updated", self.num_updated, shape.num_layers)
        low = _count("method.num_suppressed", self.num_suppressed, shape.num_layers)
        if math.comb(shape.num_layers, low) < self.num_candidates:
            raise UserError(
                f"method.num_candidates={self.num_candidates} distinct subsets of {low} suppressed layers do not exist "
                f"among {shape.num_layers} layers (there are {math.comb(shape.num_layers, low)}); lower it"
            )

    def probe_source(self) -> tuple[str, int] | None:
        """Return the configured split and size, None for a policy that learns no scores."""
        return (self.probe_data, self.probe_batch_size) if self.policy == "ist" else None

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Importance:
        """Return scores of 0: all blocks are equally important."""
        return Importance([0.0] * shape.num_layers)

    def plan(self, step: int, ctx: Context) -> Plan:
        """Update the scores if an update is due, then draw the blocks of this step."""
        depth, state = ctx.shape.num_layers, ctx.state
        if self.policy == "ist" and step > 0 and step % self.update_every == 0:
            state.scores = self._updated_scores(step // self.update_every, ctx)
            state.history.append([step, [round(score, 6) for score in state.scores]])
        drawn = 0 if self.policy == "fixed" else step
        weights = [log_sigmoid(score) for score in state.scores]
        rng = random.Random(f"ist/{ctx.seed}/{drawn}")
        return Plan(layer_units(draw_weighted(weights, _count("method.num_updated", self.num_updated, depth), rng)))

    def _updated_scores(self, number: int, ctx: Context) -> list[float]:
        suppressed = self._candidates(number, ctx)
        losses = [ctx.probe({f"layers.{i}": self.beta for i in low}, number) for low in suppressed]
        return updated(ctx.state.scores, suppressed, losses, mu=self.mu, rule=self.update)

    def _candidates(self, number: int, ctx: Context) -> list[frozenset[int]]:
        """Draw N_c distinct sets of suppressed blocks, in proportion to sigmoid(-I)."""
        rng = random.Random(f"ist/{ctx.seed}/suppress/{number}")
        weights = [log_sigmoid(-score) for score in ctx.state.scores]
        low = _count("method.num_suppressed", self.num_suppressed, len(weights))
        found: list[frozenset[int]] = []
        for _ in range(10_000):
            candidate = draw_weighted(weights, low, rng)
            if candidate not in found:
                found.append(candidate)
            if len(found) == self.num_candidates:
                return found
        raise UserError(
            f"importance scores are too extreme to draw {self.num_candidates} distinct subsets; lower method.mu"
        )

    def findings(self, model: nn.Module, anatomy: Anatomy, state: Importance) -> dict[str, Any]:
        """Return the scores I, the log odds ratio of the extremes, and whether sampling was uniform in effect.

        `importance_history`: [step, I] at every importance update, to 6 decimals.
        """
        log_odds = max(state.scores) - min(state.scores)
        return {
            "importance": list(state.scores),
            "log_odds_ratio": log_odds,
            "uniform_in_effect": log_odds < math.log(UNIFORM_BELOW),
            "importance_history": [[step, list(scores)] for step, scores in state.history],
        }
