"""The history of a run: losses, plans, tokens. All of it is in every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class History:
    """Steps taken so far. validation: (steps, loss); plans: (step, units) at every change of plan."""

    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    plans: list[tuple[int, list[str]]] = field(default_factory=list)
    tokens: int = 0
    finished: bool = False

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.losses)


def history_dict(history: History) -> dict[str, Any]:
    """Return the history as a checkpoint keeps it."""
    return asdict(history)


def restore(history: History, saved: dict[str, Any]) -> None:
    """Make a history that of a checkpoint."""
    pairs = {key: [tuple(pair) for pair in saved[key]] for key in ("validation", "plans")}
    vars(history).update({**saved, **pairs})
