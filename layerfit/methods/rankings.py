"""Rankings that a method needs before it starts: from required runs, or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerfit.anatomy import Shape
from layerfit.errors import UserError, check_one_of
from layerfit.importance.ranking import read_scores

if TYPE_CHECKING:
    from layerfit.methods.base import Method

BLOCK, MODULE = "block", "module"
"""The kinds of units that a ranking scores."""


@dataclass(frozen=True)
class Rankings:
    """The source of a method's rankings and the units they must score. Exactly one of `run` and `path` is set.

    unit: BLOCK or MODULE. targets: kinds of linear modules that are scored, () = all.
    run: the method whose run must exist first (same model and training; data: `ranking_data`).
    path: a file of findings.
    """

    unit: str
    targets: tuple[str, ...] = ()
    run: Method | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        check_one_of("unit", self.unit, (BLOCK, MODULE))
        assert (self.run is None) != (self.path is None), "set exactly one of run and path"

    def units(self, shape: Shape) -> list[str]:
        """Return the units that a ranking must score, in the model's order."""
        return shape.blocks() if self.unit == BLOCK else shape.modules(self.targets)

    def check_number(self, number: int, *, own: bool) -> None:
        """Raise UserError if the number of required runs is wrong; own: the first uses the run's own data."""
        if number > 1:
            raise UserError(f"this method uses one ranking, and ranking_data names {number} data sets; name one")

    def read(self, findings: Sequence[dict[str, Any]], shape: Shape) -> list[dict[str, float]]:
        """Return the scores in the findings of the required runs or of the file, by unit.

        Raises:
            UserError: if there are none, they score other units, or are no numbers to rank by (`read_scores`).
        """
        assert findings, "the required runs come first"
        try:
            return [read_scores(found, self.units(shape)) for found in findings]
        except ValueError as error:
            source = "its own run" if self.path is None else repr(self.path)
            raise UserError(f"method.ranking={source}, unit={self.unit}: {error}") from error


def ranking_file(method: Method) -> str | None:
    """Return the path of the ranking file that a method reads, None without one."""
    found = method.rankings()
    return None if found is None else found.path
