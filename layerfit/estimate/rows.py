"""The estimate of every row of a table: one for all seeds, of the run with the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from layerfit.config.identity import identity_of, required_runs, run_id
from layerfit.config.schema import RunConfig
from layerfit.data.batches import steps_for_epochs
from layerfit.estimate.cost import Flops, MicroBatch, StepMemory, Tracer, flops, memory
from layerfit.estimate.subject import Subject, describe
from layerfit.methods.base import Context, Plan
from layerfit.methods.rankings import ranking_file
from layerfit.records.record import Record, read_findings
from layerfit.report.build import LoadedTable

SAMPLED = 32
"""Number of plans of a run that are costed, evenly spread over its steps."""
ASKED = 2000
"""First steps of a run whose plans are all computed; the probes of a longer run are extrapolated from these."""
SOME_STEPS = 1000
"""Steps assumed for a run of unknown length."""


@dataclass(frozen=True)
class Data:
    """The data of a run.

    tokens: of one optimizer step, without padding. longest: tokens of the longest example. examples: None = not known.
    known: taken from a record on the same data; otherwise tokens and longest are upper bounds.
    """

    tokens: float
    longest: int
    examples: int | None
    known: bool
    source: str


@dataclass(frozen=True)
class RowEstimate:
    """The estimate of a row: memory of its largest plan, FLOPs of the whole run.

    trained: the most parameters that train at one time. steps: None if they follow from an unknown number of examples.
    unknown: why there is no estimate. notes: assumptions.
    """

    label: str
    data: Data | None = None
    memory: StepMemory | None = None
    trained: int | None = None
    steps: int | None = None
    flops: float | None = None
    unknown: str | None = None
    notes: tuple[str, ...] = ()


def _same_data(run: RunConfig) -> str:
    """Return, as text to compare, the settings that decide the number of tokens of a step."""
    data = replace(run.dataset, seed=0)
    training = run.training
    parts = (run.model.id, run.model.path, training.max_length, training.packing, training.batch_size)
    return repr((identity_of(data), parts))


def read_data(run: RunConfig, cells: Mapping[str, RunConfig], records: Mapping[str, Record]) -> Data:
    """Return the data of a run: from a record of a run on the same data, else an upper bound.

    cells: the table's runs by id. A record's tokens include probe batches, so the smallest of several is taken.
    """
    training, wanted = run.training, _same_data(run)
    found = [
        (record.result.tokens / len(record.result.losses), name)
        for name, record in records.items()
        if name in cells and record.result.losses and record.result.tokens and record.result.data
        if _same_data(cells[name]) == wanted
    ]
    if found:
        tokens, name = min(found)
        card = records[name].result.data
        assert card is not None
        longest = card.length_quantiles.get("1", training.max_length)
        return Data(tokens, longest, card.examples or card.kept, known=True, source=f"record {name}")
    rows = run.dataset.num_rows
    held = 0 if run.dataset.validation_split else run.dataset.num_validation
    examples = rows - held if rows is not None and run.dataset.form not in ("lines", "text") else None
    bound = float(training.batch_size * training.max_length)
    return Data(bound, training.max_length, examples, known=False, source="batch_size x max_length, an upper bound")


def num_steps(run: RunConfig, data: Data) -> int | None:
    """Return the optimizer steps of a run, None where the number of examples is not known."""
    training = run.training
    if training.max_steps is not None:
        return training.max_steps
    return None if data.examples is None else steps_for_epochs(training.epochs or 0, data.examples, training.batch_size)


def micro_batch(run: RunConfig, data: Data) -> MicroBatch:
    """Return the largest micro-batch: all rows as long as the longest example, every token but the first a target."""
    rows = run.training.micro_batch_size or run.training.batch_size // run.engine.ranks
    return MicroBatch(rows, data.longest, data.longest - 1)


@dataclass
class Course:
    """The plans of a run at `SAMPLED` of its steps, and its number of probe batches."""

    plans: list[Plan]
    probes: int


def course(subject: Subject, steps: int) -> Course:
    """Ask a method for its plans, as the loop does. Every probe returns the same loss, so no unit is more important."""
    asked: list[int] = []

    def probe(_: Mapping[str, float], number: int) -> float:
        asked.append(number)
        return 1.0

    def gradient(scales: Mapping[str, float], number: int) -> tuple[float, dict[str, float]]:
        return probe(scales, number), dict.fromkeys(scales, 0.0)

    shape, seed = subject.anatomy.shape(steps), subject.method.resolved_seed
    ctx = Context(shape, seed, probe, gradient, subject.state)
    wanted = {round(i * (steps - 1) / (SAMPLED - 1)) for i in range(SAMPLED)}
    dense = min(steps, ASKED)
    plans = {step: subject.method.plan(step, ctx) for step in range(dense)}
    probes = round(len(asked) * steps / dense)
    plans |= {step: subject.method.plan(step, ctx) for step in sorted(wanted) if step >= dense}
    return Course([plans[step] for step in sorted(wanted)], probes)


def received(run: RunConfig, records: Mapping[str, Record]) -> list[dict[str, Any]] | None:
    """Return the rankings that a run's method begins with; None if it needs none or some are not computed yet."""
    if (path := ranking_file(run.method)) is not None:
        return [read_findings(path)]
    found = [records.get(run_id(before)) for before in required_runs(run)]
    findings = [record.result.findings for record in found if record is not None and record.result.status == "ok"]
    return findings if findings and len(findings) == len(found) else None


def estimate(run: RunConfig, data: Data, records: Mapping[str, Record], label: str, tracer: Tracer) -> RowEstimate:
    """Return the estimate of one run; its FLOPs include those of the runs that it requires."""
    if not run.method.trains:
        return RowEstimate(label, unknown="trains nothing, and evaluation is not estimated")
    before, findings, notes = required_runs(run), received(run, records), []
    if before and findings is None:
        notes.append("its ranking is not computed yet: estimated for another set of as many units")
    subject = describe(run, findings)
    if isinstance(subject, str):
        return RowEstimate(label, data, unknown=subject)
    if run.engine.offload:
        return RowEstimate(label, data, unknown="memory with offloading is not estimated")
    steps = num_steps(run, data)
    taken = course(subject, steps or SOME_STEPS)
    shape, keys = micro_batch(run, data), {plan: subject.shape_of(plan).key for plan in set(taken.plans)}
    distinct = {key: plan for plan, key in keys.items()}
    largest = max((memory(subject, plan, shape, tracer) for plan in distinct.values()), key=lambda m: m.total)
    costs = {key: flops(subject, plan, shape, tracer) for key, plan in distinct.items()}
    each = [costs[keys[plan]] for plan in taken.plans]
    total = None if steps is None else _total(run, data, each, steps, taken.probes)
    for each_before in before if total is not None else []:
        first = estimate(each_before, data, records, label, tracer)
        total = None if first.flops is None or total is None else total + first.flops
    if before:
        names = " and ".join(one.method_name() for one in before)
        notes.append(f"includes its {names} run, to the last step, without probes made after a step")
    number = max(subject.number(plan) for plan in distinct.values())
    return RowEstimate(label, data, largest, number, steps, total, notes=tuple(notes))


def _total(run: RunConfig, data: Data, each: list[Flops], steps: int, probes: int) -> float:
    """Return the FLOPs of a run: of its steps, and a forward pass for each probe batch."""
    step = sum(f.step for f in each) / len(each)
    per_row = data.tokens / run.training.batch_size
    source = run.method.probe_source()
    probed = 0 if source is None else probes * source[1] * per_row * each[0].forward
    return steps * data.tokens * step + probed


def rows(loaded: LoadedTable, tracer: Tracer) -> list[RowEstimate]:
    """Return the estimates of a table's rows, in printing order."""
    cells = {cell.run_id: cell.run for cell in loaded.cells}
    first = {cell.row: cell for cell in reversed(loaded.cells)}
    return [
        estimate(cell.run, read_data(cell.run, cells, loaded.store.records), loaded.store.records, row, tracer)
        for row, cell in reversed(first.items())
    ]
