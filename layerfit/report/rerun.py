"""Run committed tables from scratch in another folder and compare the numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from layerfit.config.schema import PathsConfig, RunConfig
from layerfit.records.record import Record, read, same_result
from layerfit.report.build import LoadedTable

TOLERANCE = 0.02
"""Largest difference of a score that passes. On the same machine and versions it is 0: results are bit-identical.
Another CPU rounds differently and training amplifies it, to about the spread over seeds, which is this much."""


@dataclass(frozen=True)
class Compared:
    """One run, committed and repeated. gap: largest difference of a score, None if there is nothing to compare."""

    run_id: str
    name: str
    identical: bool
    gap: float | None
    problem: str | None

    def passes(self, tolerance: float = TOLERANCE) -> bool:
        """Return whether the numbers were reproduced."""
        return self.problem is None and (self.identical or (self.gap is not None and self.gap <= tolerance))


def elsewhere(tables: Iterable[LoadedTable], folder: Path) -> dict[str, tuple[str, RunConfig]]:
    """Return the runs of some tables, required ones too, by id: name and the run with its records in `folder`."""
    out: dict[str, tuple[str, RunConfig]] = {}
    paths = PathsConfig(outputs=str(folder / "outputs"), results=str(folder / "results"))
    for table in tables:
        for cell in table.cells:
            for run, number in (*cell.before, (cell.run, cell.run_id)):
                name = cell.name if run is cell.run else f"{run.method_name()} for {cell.name}"
                out.setdefault(number, (f"{table.spec.name}, {name}", replace(run, paths=paths)))
    return out


def compare(name: str, before: Record | None, again: Record | None) -> Compared:
    """Compare a committed record with one made again."""
    found = before or again
    number = found.run_id if found else ""
    if before is None or again is None:
        return Compared(number, name, False, None, "no committed record" if before is None else "no record again")
    if same_result(before.result, again.result):
        return Compared(number, name, True, 0.0, None)
    if before.result.status != again.result.status:
        return Compared(number, name, False, None, f"status {again.result.status}, committed {before.result.status}")
    scores = {score.key: score.value for score in again.result.scores}
    if scores.keys() != {score.key for score in before.result.scores}:
        return Compared(number, name, False, None, "other scores")
    gaps = [abs(scores[score.key] - score.value) for score in before.result.scores]
    if not gaps:  # a ranking or a measurement: compare the loss of its last step
        gaps = [abs(a - b) for a, b in zip(again.result.losses[-1:], before.result.losses[-1:], strict=True)]
    return Compared(number, name, False, max(gaps, default=None), None)


def compare_all(runs: dict[str, tuple[str, RunConfig]], committed: dict[str, str], folder: Path) -> list[Compared]:
    """Compare every run. committed: run id -> folder of its committed record."""
    return [
        compare(name, read(committed[number], number), read(folder / "results", number))
        for number, (name, _) in runs.items()
    ]


def lines(found: list[Compared], tolerance: float = TOLERANCE) -> list[str]:
    """Return the report: every run that does not pass, then a summary."""
    bad = [one for one in found if not one.passes(tolerance)]
    out = [f"{one.run_id}  {one.name}: {one.problem or f'a score differs by {one.gap:.4f}'}" for one in bad]
    same = sum(one.identical for one in found)
    gap = max((one.gap for one in found if one.gap is not None), default=0.0)
    return [
        *out,
        f"{len(found)} runs: {same} equal to the bit, {len(found) - same - len(bad)} within {tolerance:g}, "
        f"{len(bad)} not; largest difference of a score {gap:.4f}",
    ]
