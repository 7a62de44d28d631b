"""A fixed set of units trains: the control for every method that chooses units.

The set is given, chosen by a ranking, or drawn. The ranking comes from a file, or from a separate run of any method
that ranks blocks or linear modules (`ranking_run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from layerfit.anatomy import EMBEDDING, HEAD, NORM, Shape, layer_units
from layerfit.errors import UserError, check_one_of, check_range
from layerfit.files.paths import PATH
from layerfit.importance.choice import ENDS, UNRANKED, by_importance, unranked
from layerfit.methods.base import Context, Method, Plan
from layerfit.methods.lora import LowRank
from layerfit.methods.rankings import BLOCK, MODULE, Rankings

if TYPE_CHECKING:
    from torch import nn

    from layerfit.anatomy import Anatomy

_SINCE = {"since": "static over LoRA, and by a ranking"}


@dataclass
class Chosen:
    """The units that train, by name."""

    units: list[str]


@dataclass
class Static(Method):
    """Train given units (`layers.3`, `layers.3.mlp.up_proj`) or selected ones, and the parts in `always`."""

    units: list[str] = field(default_factory=list)
    always: list[str] = field(default_factory=list)
    select: str = field(default="given", metadata=_SINCE)
    """given: `units`. Otherwise `num_units` of the model's blocks or modules (`unit`): the most or least important by
    a ranking, or, without a ranking, random, first or last ones."""
    num_units: int | None = field(default=None, metadata=_SINCE)
    unit: str = field(default="block", metadata=_SINCE)
    ranking: str | None = field(default=None, metadata={"identity": "content", **PATH, **_SINCE})
    """The path of a ranking file."""
    ranking_run: Method | None = field(default=None, metadata=_SINCE)
    """A method whose run makes the ranking before this run starts: `+method@method.ranking_run=NAME`, then its keys."""
    base: str = field(default="full", metadata=_SINCE)
    """full: the weights of a unit train; lora: adapters on its linear modules, the only ones in the model."""
    rank: int = field(default=8, metadata=_SINCE)
    alpha: float = field(default=16.0, metadata=_SINCE)
    dropout: float = field(default=0.0, metadata=_SINCE)
    targets: list[str] = field(default_factory=list, metadata=_SINCE)

    def __post_init__(self) -> None:
        check_one_of("method.select", self.select, ("given", *ENDS, *UNRANKED))
        check_one_of("method.unit", self.unit, (BLOCK, MODULE))
        check_one_of("method.base", self.base, ("full", "lora"))
        self._lora()
        for part in self.always:
            check_one_of("method.always", part, (EMBEDDING, HEAD, NORM))
        if self.num_units is not None:
            check_range("method.num_units", self.num_units, 1)
        self._check_choice()
        if self.base == "lora" and self.always:
            raise UserError(f"method.always={self.always} with method.base=lora: only adapters train; leave it out")
        if self.base == "full" and self._lora() != LowRank(seed=self.seed):
            raise UserError("method.rank, alpha, dropout and targets go with method.base=lora")

    def _check_choice(self) -> None:
        """Raise UserError unless `units` or a selection is configured, but not both."""
        if self.select == "given":
            idle = [key for key in ("num_units", "ranking", "ranking_run") if getattr(self, key) is not None]
            if idle:
                raise UserError(
                    f"method.{idle[0]} is not read with method.select=given, which trains method.units; "
                    f"set method.select to one of: {', '.join(ENDS + UNRANKED)}"
                )
            if not self.units and not self.always:
                raise UserError(
                    "method.units=[] with method.always=[] trains nothing; name a unit, for example layers.0"
                )
            return
        if self.units:
            raise UserError(f"method.select={self.select} chooses units; leave out method.units, or set select=given")
        if self.num_units is None:
            raise UserError(f"method.select={self.select} needs method.num_units: how many units train")
        if self.select in UNRANKED:  # unused, and they would change the run id
            self.ranking = self.ranking_run = None
        elif (self.ranking is None) == (self.ranking_run is None):
            raise UserError(
                f"method.select={self.select} needs one ranking: method.ranking=FILE, or a run that makes it, "
                "+method@method.ranking_run=METHOD"
            )
        elif self.ranking_run is not None:
            self._check_ranking_run(self.ranking_run)

    def _check_ranking_run(self, run: Method) -> None:
        """Raise UserError if a run would not rank the units to select from."""
        if run.ranks is None:
            raise UserError("method.ranking_run is a method that makes no ranking; name one that does")
        if run.ranks != self.unit:
            raise UserError(
                f"method.unit={self.unit} but method.ranking_run ranks every {run.ranks}; set method.unit={run.ranks}"
            )
        if self.unit == MODULE and isinstance(run, LowRank) and run.targets != self.targets:
            raise UserError(
                f"method.targets={self.targets} and method.ranking_run.targets={run.targets}: make them the same, "
                "or the ranking lacks units to select from"
            )

    def _lora(self) -> LowRank:
        return LowRank(**{f.name: getattr(self, f.name) for f in fields(LowRank) if f.init})

    def rankings(self) -> Rankings | None:
        """Return the ranking of a run, whose seed defaults to that of this method, or of a file; None without one."""
        if self.select not in ENDS:
            return None
        run = self.ranking_run
        if run is not None and run.seed is None:
            run = replace(run, seed=self.seed)
        return Rankings(self.unit, tuple(self.targets), run=run, path=self.ranking)

    def _choices(self, shape: Shape) -> list[str]:
        """Return all blocks or all targeted modules (`unit`), in the model's order."""
        return shape.blocks() if self.unit == BLOCK else shape.modules(self.targets)

    def begin(self, shape: Shape, findings: Sequence[dict[str, Any]]) -> Chosen:
        """Return the set, which does not change during the run.

        Raises:
            UserError: if the findings hold no ranking, or one of other units.
        """
        if self.select == "given":
            return Chosen(sorted(self.units))
        assert self.num_units is not None
        if (source := self.rankings()) is not None:
            return Chosen(sorted(by_importance(source.read(findings, shape)[0], self.num_units, self.select)))
        return Chosen(sorted(unranked(self._choices(shape), self.num_units, self.select, self.resolved_seed)))

    def check(self, shape: Shape) -> None:
        """Raise UserError if a unit is unknown or has nothing to train, or `num_units` exceeds their number."""
        if self.base == "lora":
            self._lora().check(shape)
        if self.select != "given":
            assert self.num_units is not None
            check_range("method.num_units", self.num_units, 1, len(self._choices(shape)))
        known = layer_units(range(shape.num_layers)) | set(shape.modules())
        for unit in self.units:
            if unit not in known:
                raise UserError(
                    f"method.units names {unit!r}, not a unit of this model: "
                    f"layers.0..layers.{shape.num_layers - 1}, or one of their {', '.join(shape.linear)}"
                )
            if self.base == "lora" and not self._adapted([unit], shape):
                raise UserError(f"method.units names {unit!r}, which has no module among method.targets")

    def _adapted(self, units: list[str], shape: Shape) -> list[str]:
        """Return the linear modules inside `units` that get an adapter."""
        return [u for u in shape.modules(self.targets) if any(u == one or u.startswith(one + ".") for one in units)]

    def adapt(self, model: nn.Module, anatomy: Anatomy, state: Chosen) -> nn.Module:
        """With `base=lora` insert adapters into the set alone; with `base=full` return the model unchanged."""
        if self.base == "full":
            return model
        return self._lora().insert(model, anatomy, self._adapted(state.units, anatomy.shape(num_steps=0)))

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return the set."""
        return Plan(frozenset(ctx.state.units), tuple(self.always))
