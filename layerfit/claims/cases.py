"""Cases: a claim on one comparison (LISA above LoRA, MMLU, Mistral-7B) with its number."""

from __future__ import annotations

from dataclasses import dataclass

from layerfit.report import stats
from layerfit.report.compare import Estimate


@dataclass(frozen=True)
class Case:
    """value, interval: in the printed unit. distance: from the claim's bound, > 0 where the claim holds.

    p: two-sided, of distance 0, not adjusted; None where the noise is not known, for the reason in `reason`. spread: of
    the distance. plus_minus: of a published number. signed: a difference, printed with its sign.
    """

    name: str
    value: float
    distance: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    reason: str = ""
    spread: stats.Spread | None = None
    plus_minus: float | None = None
    unit: str = ""
    signed: bool = True
    decimals: int = 2

    def text(self) -> str:
        """Return `+3.1 [1.2, 5.0]`."""
        one = f"{self.value:+.{self.decimals}f}" if self.signed else f"{self.value:.{self.decimals}f}"
        out = one + (f" {self.unit}" if self.unit else "")
        if self.interval is None:
            return out
        low, high = self.interval
        return f"{one} [{low:.{self.decimals}f}, {high:.{self.decimals}f}]" + (f" {self.unit}" if self.unit else "")


@dataclass(frozen=True)
class Missing:
    """A case without numbers, and the reason."""

    name: str
    reason: str


def case(name: str, estimate: Estimate, distance: float, *, unit: str, signed: bool, decimals: int) -> Case:
    """Return the case of an estimate; its distance is on the estimate's own scale, with the same noise."""
    spread = estimate.spread
    p = None if spread is None else spread.p(distance)
    return Case(
        name,
        estimate.shown,
        distance,
        estimate.interval(),
        p,
        estimate.reason,
        spread,
        estimate.plus_minus,
        unit,
        signed,
        decimals,
    )
