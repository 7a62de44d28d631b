"""One run on one rank: load, train, evaluate. The worker turns its end into a record."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerfit.adapters.peft import is_adapted, save_trained
from layerfit.config import check_unchanged
from layerfit.distributed import process
from layerfit.engines import make_engine
from layerfit.engines.base import Engine
from layerfit.errors import UserError, finite
from layerfit.evaluation.judge.run import judged
from layerfit.evaluation.protocols import evaluate
from layerfit.models.hub import MODELS, origin
from layerfit.records import record
from layerfit.records.manifest import manifest
from layerfit.records.record import Items, Measured, Result, Score, same_result
from layerfit.run import interrupt
from layerfit.run.attempt import Attempt
from layerfit.run.loading import Loaded, fresh_model, load
from layerfit.run.loop import Clock, check_trained, diverging, train
from layerfit.run.measure import Memory, memory_of, phases_of, watch_activations
from layerfit.run.norms import Norms
from layerfit.run.resume import Training, resume, save


def watch(attempt: Attempt, norms: Norms | None, step: int, values: dict[str, float]) -> None:
    """Take note of a step."""
    if norms is not None:
        norms.add()
    attempt.tracker.log(step, values)


def trained_model(loaded: Loaded, engine: Engine) -> nn.Module | None:
    """Return the trained model on rank 0, free of the engine; None on other ranks, which are done."""
    sharded = getattr(engine, "stage", 0) == 3
    weights = {n: engine.read_weight(n) for n in sorted(engine.among)} if sharded else {}
    rank = engine.rank
    engine.close()
    process.leave_group()
    if rank != 0:
        return None
    if not sharded:
        return loaded.model
    model = fresh_model(loaded.run, loaded.anatomy, loaded.state, loaded.device)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    return model


def save_weights(attempt: Attempt, model: nn.Module, tokenizer: Any, result: Result) -> None:
    """Write `model/`, or `adapter/` for adapters, under a temporary name first.

    Raises:
        UserError: if the run has a record with another result: the weights would not be those that it speaks of.
    """
    results, run_id, folder = attempt.run.paths.results, attempt.run_id, attempt.folder
    recorded = record.read(results, run_id)
    if recorded is not None and recorded.result.status == "ok" and not same_result(recorded.result, result):
        raise UserError(
            f"run again for its weights, {run_id} gave another result than its record (other hardware or "
            f"versions?); to replace it move {record.record_path(results, run_id)} away"
        )
    model_kind, adapter_kind = record.WEIGHT_FOLDERS
    target = folder / (adapter_kind if is_adapted(model) else model_kind)
    writing = folder / f".{target.name}.writing"
    shutil.rmtree(writing, ignore_errors=True)  # half-written by a run that was killed
    save_trained(model, writing)
    tokenizer.save_pretrained(writing)
    shutil.rmtree(target, ignore_errors=True)
    writing.rename(target)


def execute(attempt: Attempt) -> tuple[Result, Items, Measured] | None:
    """Execute an attempt on this rank; its history is filled in place, whether it succeeds or not.

    Returns:
        Result, items and measurements on the rank that writes; None on the others.

    Raises:
        Diverged: if a number that the run rests on is not finite: in training, or of the trained model.
        Interrupted: if this process was asked to stop; the checkpoint holds all steps taken.
    """
    run = attempt.run
    attempt.tracker.phase("load", 1)
    with interrupt.at_once():
        loaded = load(run, attempt.needs)
        check_unchanged(run, attempt.identity)
    per_rank = run.training.batch_size // run.engine.ranks
    micro_batches = per_rank // (run.training.micro_batch_size or per_rank)
    engine = make_engine(loaded.model, loaded.anatomy, run, num_steps=loaded.num_steps, micro_batches=micro_batches)
    engine.phases.on = run.training.time_phases
    norms = Norms(engine) if run.training.norms else None
    start, memory = time.perf_counter(), Memory()
    clock, training = Clock(), Training(attempt, loaded, engine, norms)
    if loaded.num_steps:
        with measured(training, memory):
            hooks = partial(save, training), partial(watch, attempt, norms)
            clock = train(loaded, engine, attempt.history, *hooks)
    phases_of(engine, memory)
    found = {} if norms is None or engine.rank != 0 else {"norms": norms.findings()}
    cost = Trained(clock, memory, time.perf_counter() - start, list(engine.switch_seconds), engine.num_trained())
    model = trained_model(loaded, engine)
    del norms, engine, training
    gc.collect()
    return None if model is None else evaluated(attempt, loaded, model, cost, found)


@contextmanager
def measured(training: Training, memory: Memory) -> Iterator[None]:
    """Inside, train on from the last checkpoint; then what came of it is looked at, and `memory` is filled in place."""
    attempt, loaded, engine = training.attempt, training.loaded, training.engine
    with watch_activations(engine, memory):
        resume(training)
        attempt.tracker.phase("train", loaded.num_steps)
        with process.together():
            yield
    memory_of(engine, memory)
    check_trained(loaded, engine)


@dataclass
class Trained:
    """What training cost. seconds: with loading of the engine; num_trained: parameters that were in a plan."""

    clock: Clock
    memory: Memory
    seconds: float
    switch_seconds: list[float]
    num_trained: int


def evaluated(
    attempt: Attempt, loaded: Loaded, model: nn.Module, training: Trained, found: dict[str, Any]
) -> tuple[Result, Items, Measured]:
    """Evaluate a trained model, keep its weights if they are asked for. found: findings that are not the method's."""
    run = attempt.run
    attempt.tracker.phase("evaluate", len(run.eval.tasks))
    start = time.perf_counter()
    with interrupt.at_once():
        scores, items = _scores(loaded, model, attempt.folder)
    # These are read at the end: a judge's weights, and from sharded weights a fresh model.
    check_unchanged(run, attempt.identity, ("eval", "model") if run.engine.stage == 3 else ("eval",))
    eval_seconds = time.perf_counter() - start
    found = run.method.findings(model, loaded.anatomy, loaded.state) | found
    with diverging("after the last step", run.optim.lr):
        check_found(scores, found)
    result = _result(attempt, loaded, training.num_trained, scores, found)
    if run.save.weights == "final":
        save_weights(attempt, model, loaded.tokenizer, result)
    model_id = run.model.id or run.model.name
    sources = {model_id: origin(MODELS, run.model.id or "", run.hub, run.model.path, run.model.revision)}
    made = manifest(process.describe_device(run.engine.device), sources | loaded.data.sources)
    memory = training.memory
    return result, items, memory.measured(training.clock, training.seconds, eval_seconds, training.switch_seconds, made)


def check_found(scores: list[Score], found: dict[str, Any]) -> None:
    """Check what an evaluation and a ranking found.

    Raises:
        Diverged: if a score of either is not finite, naming it.
    """
    for score in scores:
        finite(f"score {score.key}", score.value)
    for unit, value in found.get("ranking", {}).get("scores", {}).items():
        finite(f"ranking score of {unit}", value)


def _scores(loaded: Loaded, model: nn.Module, folder: Path) -> tuple[list[Score], Items]:
    run, tokenizer = loaded.run, loaded.tokenizer
    scores, items = evaluate(model, tokenizer, run.eval, run.hub, loaded.device) if run.eval.tasks else ([], {})
    if not run.eval.judge.benchmarks:
        return scores, items
    more, outcomes = judged(model, tokenizer, run.eval, run.hub, loaded.device, folder)
    return scores + more, items | outcomes


def _result(attempt: Attempt, loaded: Loaded, num_trained: int, scores: list[Score], found: dict[str, Any]) -> Result:
    """Return the result of a run that came to its end."""
    history = attempt.history
    return Result(
        config=attempt.identity,
        status="ok",
        scores=scores,
        losses=history.losses,
        validation=history.validation,
        plans=history.plans,
        trainable_parameters=num_trained,
        total_parameters=loaded.num_parameters,
        tokens=history.tokens,
        data=loaded.data.card,
        findings=found,
    )
