"""Accuracy of estimates: predicted over recorded bytes, for runs that have a record.

Predicted here is the quantity that a record holds, not the peak of the run: gradients and optimizer state of the last
plan, and the activations of the largest plan (of the first, where a record has those). The micro-batch comes from the
table's configuration, since a record does not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean

from layerfit.config.schema import RunConfig
from layerfit.estimate.cost import Tracer, recorded_memory
from layerfit.estimate.rows import course, micro_batch, read_data, received
from layerfit.estimate.subject import describe
from layerfit.records.record import Record
from layerfit.report.build import LoadedTable
from layerfit.report.cells import Cell

COMPONENTS = ("weights", "gradients", "optimizer", "activations")


@dataclass(frozen=True)
class Check:
    """One record. predicted, recorded: bytes by component and `total`; also `allocated` on devices that report it."""

    row: str
    run_id: str
    predicted: dict[str, float]
    recorded: dict[str, int]

    def ratio(self, component: str) -> float | None:
        """Return predicted over recorded, None if nothing is recorded."""
        name = "total" if component == "allocated" else component
        return self.predicted[name] / self.recorded[component] if self.recorded.get(component) else None


def check(
    cell: Cell, record: Record, cells: Mapping[str, RunConfig], records: Mapping[str, Record], tracer: Tracer
) -> Check | None:
    """Compare an estimate with a record; None if either has no bytes to compare."""
    peak = record.measured.peak_memory_bytes
    recorded = {name: value for name in (*COMPONENTS, "allocated") if (value := peak.get(name)) is not None}
    steps = len(record.result.losses)
    if not set(COMPONENTS) <= set(recorded) or not steps or cell.run.engine.offload:
        return None
    subject = describe(cell.run, received(cell.run, records))
    if isinstance(subject, str):
        return None
    shape = micro_batch(cell.run, read_data(cell.run, cells, {cell.run_id: record}))
    plans = course(subject, steps).plans
    last = recorded_memory(subject, plans[-1], shape, tracer)
    of_all = {subject.shape_of(plan).key: plan for plan in plans}.values()
    counted = plans[:1] if record.measured.activations_over is None else of_all
    activations = max(recorded_memory(subject, plan, shape, tracer).activations for plan in counted)
    found = replace(last, activations=activations)
    predicted = {name: getattr(found, name) for name in COMPONENTS} | {"total": found.total}
    recorded["total"] = sum(recorded[name] for name in COMPONENTS)
    return Check(cell.row, cell.run_id, predicted, recorded)


def checks(loaded: LoadedTable, tracer: Tracer) -> list[Check]:
    """Compare every record of a table with its estimate."""
    cells, records = {cell.run_id: cell.run for cell in loaded.cells}, loaded.store.records
    recorded = [cell for cell in loaded.cells if cell.run_id in records]
    found = (check(cell, records[cell.run_id], cells, records, tracer) for cell in recorded)
    return [one for one in found if one is not None]


def by_row(found: list[Check]) -> dict[str, tuple[int, dict[str, float | None]]]:
    """Return, for every row, its number of records and the mean ratio of every component."""
    out: dict[str, tuple[int, dict[str, float | None]]] = {}
    for row in dict.fromkeys(one.row for one in found):
        mine = [one for one in found if one.row == row]
        ratios = {}
        for name in (*COMPONENTS, "total", "allocated"):
            known = [ratio for one in mine if (ratio := one.ratio(name)) is not None]
            ratios[name] = mean(known) if known else None
        out[row] = len(mine), ratios
    return out
