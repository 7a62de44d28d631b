"""One run on one rank: load, train, evaluate. What becomes of it is the worker's business."""

from __future__ import annotations

import gc
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerfit import config
from layerfit.adapters.peft import is_adapted, save_trained
from layerfit.config.schema import RunConfig
from layerfit.distributed import process
from layerfit.engines import make_engine
from layerfit.engines.base import Engine
from layerfit.errors import UserError
from layerfit.evaluation.judge.run import judged
from layerfit.evaluation.protocols import evaluate
from layerfit.models.hub import MODELS, origin
from layerfit.records import record
from layerfit.records.manifest import manifest
from layerfit.records.record import Items, Measured, Result, Score, same_result
from layerfit.run import checkpoint, interrupt
from layerfit.run.loading import Loaded, fresh_model, load
from layerfit.run.loop import Clock, History, history_dict, restore, train
from layerfit.run.measure import Memory, memory_of, phases_of, watch_activations
from layerfit.run.norms import Norms
from layerfit.run.track import Tracker


def train_or_resume(
    loaded: Loaded, engine: Engine, folder: Path, tracker: Tracker, history: History, norms: Norms | None
) -> Clock:
    """Train from the last checkpoint, or from the start, to the end; `history` and `norms` are filled in place.

    Raises:
        UserError: if the ranks do not find the same checkpoint.
        Diverged: if the loss is not finite.
        Interrupted: after a checkpoint, if one of the ranks was asked to stop.
    """
    run, path = loaded.run, folder / "checkpoint.pt"
    saved = checkpoint.load(path)
    if not engine.agree(0 if saved is None else 1 + len(saved["history"]["losses"])):
        raise UserError(
            f"the ranks do not find the same checkpoint in paths.outputs={run.paths.outputs}; "
            "it must be on a file system that all of them share"
        )
    if saved is not None:
        restore(history, saved["history"])
        run.method.load_state_dict(saved["method"])
        engine.load_state_dict(saved["engine"])
        if norms is not None:
            norms.load_state_dict(saved["norms"])
    tracker.phase("train", loaded.num_steps)

    def save(history: History) -> None:
        content: dict[str, Any] = {
            "history": history_dict(history),
            "method": run.method.state_dict(),
            "engine": engine.state_dict(),
        }
        content["norms"] = None if norms is None else norms.state_dict()
        if engine.rank == 0:
            checkpoint.save(path, content)

    def watch(step: int, values: dict[str, float]) -> None:
        if norms is not None:
            norms.add()
        tracker.log(step, values)

    peers = process.peers()
    with nullcontext() if peers is None else peers.together():
        return train(run, loaded.data, engine, loaded.num_steps, history, save, watch)


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
    model = fresh_model(loaded.run, loaded.device)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    return model


def save_weights(loaded: Loaded, model: nn.Module, folder: Path, result: Result) -> None:
    """Write `model/`, or `adapter/` for adapters, under a temporary name first.

    Raises:
        UserError: if the run has a record with another result: the weights would not be those that it speaks of.
    """
    recorded = record.read(loaded.run.paths.results, loaded.run_id)
    if recorded is not None and recorded.result.status == "ok" and not same_result(recorded.result, result):
        raise UserError(
            f"run again for its weights, {loaded.run_id} gave another result than its record (other hardware or "
            f"versions?); to replace it move {record.record_path(loaded.run.paths.results, loaded.run_id)} away"
        )
    model_kind, adapter_kind = record.WEIGHT_FOLDERS
    target = folder / (adapter_kind if is_adapted(model) else model_kind)
    writing = folder / f".{target.name}.writing"
    shutil.rmtree(writing, ignore_errors=True)  # half-written by a run that was killed
    save_trained(model, writing)
    loaded.tokenizer.save_pretrained(writing)
    shutil.rmtree(target, ignore_errors=True)
    writing.rename(target)


def execute(
    run: RunConfig, run_id: str, folder: Path, tracker: Tracker, history: History
) -> tuple[Result, Items, Measured] | None:
    """Execute a run on this rank; `history` is filled in place, for whatever comes of it.

    Returns:
        Result, items and measurements on the rank that writes; None on the others.

    Raises:
        Interrupted: if this process was asked to stop; what was trained is in the checkpoint.
    """
    tracker.phase("load", 1)
    with interrupt.at_once():
        loaded = load(run, run_id)
    per_rank = run.training.batch_size // run.engine.ranks
    engine = make_engine(loaded.model, run, per_rank // (run.training.micro_batch_size or per_rank))
    engine.phases.on = run.training.time_phases
    norms = Norms(engine) if run.training.norms else None
    start = time.perf_counter()
    clock, memory = Clock(), Memory()
    if loaded.num_steps:
        with watch_activations(engine, memory):
            clock = train_or_resume(loaded, engine, folder, tracker, history, norms)
        memory_of(engine, memory)
    phases_of(engine, memory)
    train_seconds = time.perf_counter() - start
    found = {} if norms is None or engine.rank != 0 else {"norms": norms.findings()}
    del norms
    switches, num_trained = list(engine.switch_seconds), engine.num_trained()
    model = trained_model(loaded, engine)
    del engine
    gc.collect()
    if model is None:
        return None
    tracker.phase("evaluate", len(run.eval.tasks))
    start = time.perf_counter()
    with interrupt.at_once():
        scores, items = _scores(loaded, model, folder)
    eval_seconds = time.perf_counter() - start
    result = _result(loaded, history, num_trained, scores, found)
    if run.save.weights == "final":
        save_weights(loaded, model, folder, result)
    device = process.describe_device(run.engine.device)
    model_id = run.model.id or run.model.name
    sources = {model_id: origin(MODELS, run.model.id or "", run.hub, run.model.path, run.model.revision)}
    sources |= loaded.data.sources
    measured = memory.measured(clock, train_seconds, eval_seconds, switches, manifest(device, sources))
    return result, items, measured


def _scores(loaded: Loaded, model: nn.Module, folder: Path) -> tuple[list[Score], Items]:
    run, tokenizer = loaded.run, loaded.tokenizer
    scores, items = evaluate(model, tokenizer, run.eval, run.hub, loaded.device) if run.eval.tasks else ([], {})
    if not run.eval.judge.benchmarks:
        return scores, items
    more, outcomes = judged(model, tokenizer, run.eval, run.hub, loaded.device, folder)
    return scores + more, items | outcomes


def _result(loaded: Loaded, history: History, num_trained: int, scores: list[Score], found: dict[str, Any]) -> Result:
    """Return the result of a run that came to its end; `found`: findings that are not the method's."""
    return Result(
        config=config.identity_of(loaded.run),
        status="ok",
        scores=scores,
        losses=history.losses,
        validation=history.validation,
        plans=history.plans,
        trainable_parameters=num_trained,
        total_parameters=loaded.num_parameters,
        tokens=history.tokens,
        data=loaded.data.card,
        findings=loaded.run.method.findings() | found,
    )
