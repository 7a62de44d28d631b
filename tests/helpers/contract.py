"""One method on one engine, watched step by step. Run under torchrun it does the same on several ranks."""

import copy
import gc
import json
import math
import os
import re
import sys
import weakref
from dataclasses import asdict, dataclass, field

import torch

from layerfit.engines.base import Engine
from layerfit.engines.groups import full_shape
from layerfit.methods import METHODS
from layerfit.methods.base import REBUILD, SKIP, STATIC, Plan
from tests.helpers.tiny import LAYERS, SETTINGS, composed, context_for, engine_for, found_by, rows, share


@dataclass
class Report:
    """What was seen. Every list of faults must be empty."""

    losses: list[float] = field(default_factory=list)
    frozen_moved: list[str] = field(default_factory=list)
    active_still: list[str] = field(default_factory=list)
    wrong_blocks: list[str] = field(default_factory=list)
    state_numel: list[int] = field(default_factory=list)
    expected_numel: list[int] = field(default_factory=list)
    switches: int = 0
    leaked_optimizers: int = 0
    resident: float = 0.0
    settings_changed: bool = False
    scores: list[float] = field(default_factory=list)
    """A learned ranking's scores, in the model's order."""


def snapshot(engine: Engine, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights; of active bf16 ones the fp32 master, which small updates move first."""
    masters = sorted(engine.active) if engine.keeps_masters else []
    return weights | {name: engine.read_state(name)["master"].cpu() for name in masters}


def blocks_of(names: set[str]) -> set[int]:
    """A second oracle, read off the names: what says what trains must not grade itself."""
    return {int(i) for n in names for i in re.findall(r"\blayers\.(\d+)\.", n)}


def blocks_in(plan: Plan) -> set[int]:
    return {int(u.split(".")[1]) for u in plan.units}


def state_numel(engine: Engine) -> int:
    """Elements of first moments held, over all ranks."""
    held = [s["exp_avg"].numel() for s in engine.optimizer_object().state.values() if "exp_avg" in s]
    sharded = getattr(engine, "stage", 0) in (1, 2, 3)
    return int(engine.all_sum([float(sum(held))])[0]) if sharded else sum(held)


def resident_ratio(engine: Engine) -> float:
    """Bytes of storage behind the weights, over the bytes of the weights."""
    tensors = [getattr(p, "ds_tensor", p) for p in engine.parameters.values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values()) / sum(t.numel() * t.element_size() for t in tensors)


def expected_numel(engine: Engine, names: set[str]) -> int:
    """Elements of first moments that the method says are held for these parameters."""
    total = 0
    for name in names:
        shape = full_shape(engine.parameters[name])
        options = engine.optimizer_spec.options(engine.anatomy.unit(name) or name, shape)
        total += options["rank"] * max(shape) if "rank" in options else math.prod(shape)
    return total


def watch(
    method: str, engine_name: str, dtype: str = "fp32", steps: int | None = None, extra: tuple[str, ...] = ()
) -> Report:
    """Train and report. steps: None = 20 for a method that switches, 8 for one whose plan stays."""
    if steps is None:
        steps = 8 if METHODS[method].switching == STATIC else 20
    run = composed(f"method={method}", f"engine={engine_name}", f"training.dtype={dtype}", *SETTINGS[method], *extra)
    settings = copy.deepcopy(run)
    engine = engine_for(run, steps=steps)
    ctx, report = context_for(run, engine, steps), Report()
    old: list[weakref.ref] = []
    weights = {n: engine.read_weight(n) for n in engine.parameters}
    for step in range(steps):
        plan = run.method.plan(step, ctx)
        if engine.use(plan) and step:
            report.switches += 1
        switched = {n: engine.read_weight(n) for n in engine.parameters}
        report.frozen_moved += [
            f"switch before step {step}: {n}" for n in weights if not torch.equal(weights[n], switched[n])
        ]
        if run.method.switching == REBUILD and not any(ref() is engine.optimizer_object() for ref in old):
            old.append(weakref.ref(engine.optimizer_object()))
        before = snapshot(engine, switched)
        report.losses.append(
            engine.step(share(rows(step), engine.rank, engine.world, engine.micro_batches), 0.003).loss
        )
        weights = {n: engine.read_weight(n) for n in engine.parameters}
        after = snapshot(engine, weights)
        moved = {n for n in before if not torch.equal(before[n], after[n])}
        report.frozen_moved += [f"step {step}: {n}" for n in sorted(moved - engine.active)]
        report.active_still += [f"step {step}: {n}" for n in sorted(engine.active - moved)]
        if blocks_of(moved) - blocks_in(plan) or (blocks_of(moved) != blocks_in(plan) and not plan.frozen):
            report.wrong_blocks.append(f"step {step}: {sorted(blocks_of(moved))} for {sorted(blocks_in(plan))}")
        run.method.after_step(step, ctx)
        held = engine.among if run.method.switching == SKIP else engine.active
        report.state_numel.append(state_numel(engine))
        report.expected_numel.append(expected_numel(engine, held))
    report.scores = list(found_by(run, engine, ctx).get("ranking", {}).get("scores", {}).values())
    report.settings_changed = run != settings
    gc.collect()
    report.leaked_optimizers = sum(ref() is not None for ref in old[:-1])
    report.resident = resident_ratio(engine)
    engine.close()
    return report


def main(out: str, cases: str) -> None:
    """Watch `method:engine` cases in this rank; rank 0 writes the reports."""
    torch.set_num_threads(1)
    reports = {}
    for case in cases.split(","):
        method, engine = case.split(":")
        reports[case] = asdict(watch(method, engine))
    if torch.distributed.get_rank() == 0:
        with open(out, "w") as file:  # noqa: PTH123
            json.dump(reports, file)


if __name__ == "__main__":
    assert LAYERS == 4
    main(*sys.argv[1:])
    torch.distributed.barrier()  # rank 0 has written
    os._exit(0)  # as a run does: threads of torch and DeepSpeed now and then abort an interpreter that shuts down
