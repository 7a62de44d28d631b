"""One rank of one run: load, train, evaluate, record. `python -m layerfit.worker RUN.json` is one rank of several."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from layerfit import checkpoint, config, record
from layerfit.engines import make_engine, process
from layerfit.engines.base import Engine
from layerfit.errors import UserError
from layerfit.evaluation.judge.run import judged, keep_judgments
from layerfit.evaluation.protocols import evaluate
from layerfit.hub import MODELS, origin, prepare_environment
from layerfit.loading import Loaded, fresh_model, load
from layerfit.loop import Clock, Diverged, History, history_dict, history_from, train
from layerfit.manifest import manifest
from layerfit.measure import Memory, memory_of, watch_activations
from layerfit.methods.adapters import is_adapted, save_trained
from layerfit.record import Items, Measured, Record, Result, Score
from layerfit.schema import RunConfig
from layerfit.track import Silent, Tracker, make_tracker


def train_or_resume(loaded: Loaded, engine: Engine, folder: Path, tracker: Tracker) -> tuple[History, Clock, Memory]:
    """Train from the last checkpoint, or from the start, to the end."""
    run, history, path = loaded.run, History(), folder / "checkpoint.pt"
    if (saved := checkpoint.load(path)) is not None:
        history = history_from(saved["history"])
        run.method.load_state_dict(saved["method"])
        engine.load_state_dict(saved["engine"])
    tracker.phase("train", loaded.num_steps)

    def save(history: History) -> None:
        content = {"history": history_dict(history), "method": run.method.state_dict(), "engine": engine.state_dict()}
        if engine.rank == 0:
            checkpoint.save(path, content)

    memory = Memory()
    with watch_activations(engine, memory):
        clock = train(run, loaded.data, engine, loaded.num_steps, history, save, tracker.log)
    memory_of(engine, memory)
    return history, clock, memory


def trained_model(loaded: Loaded, engine: Engine) -> nn.Module | None:
    """Return the trained model on rank 0, free of the engine; None on other ranks, which are done."""
    sharded = getattr(engine, "stage", 0) == 3
    weights = {n: engine.read_weight(n) for n in sorted(engine.among)} if sharded else {}
    rank = engine.rank
    engine.close()
    process.stop()
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
    if recorded is not None and recorded.result.status == "ok" and _plain(recorded.result) != _plain(result):
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


def _plain(result: Result) -> str:
    return json.dumps(asdict(result), sort_keys=True)


def execute(run: RunConfig, folder: Path) -> Record | None:
    """Execute a run on this rank; rank 0 writes the record and returns it, or any rank that fails.

    Whatever a run can die of becomes its record's status. A record that is final is never written again.
    """
    run_id = config.run_id(run)
    prepare_environment(run.hub)
    process.start(process.device_for(run.engine.device), run.engine.stage)
    writes = process.rank() == 0
    tracker = make_tracker(run, run_id, config.identity(run), folder) if writes else Silent()
    try:
        result, items, measured = _outcome(run, run_id, folder, tracker)
    finally:
        process.stop()
    if result is None or (result.status in record.FINAL and not writes):
        return None
    done = Record(run_id, run.method_name(), run.label, result, measured)
    before = record.read(run.paths.results, run_id)
    if before is None or before.result.status not in record.FINAL:
        if run.eval.judge.bench is not None and result.status == "ok":
            keep_judgments(folder, run.paths.results)
        record.write(done, items, run.paths.results)
    if result.findings.get("ranking"):
        ranking = {"run_id": run_id, "model": run.model.name, "dataset": run.dataset.name, **result.findings["ranking"]}
        text = json.dumps(ranking, indent=1) + "\n"
        record.write_atomically(Path(run.paths.results) / "rankings" / f"{run_id}.json", text.encode())
    if result.status in record.FINAL:
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    tracker.finish(done)
    tracker.close()
    return done


def _outcome(run: RunConfig, run_id: str, folder: Path, tracker: Tracker) -> tuple[Result | None, Items, Measured]:
    """Return result, items and measurements; result is None on ranks that do not write."""
    device = process.describe_device(run.engine.device)
    history = History()
    try:
        return _run(run, run_id, folder, tracker)
    except UserError as error:
        status, message = "failed", str(error)
    except Diverged as error:
        status, message, history = "diverged", str(error), error.history
    except torch.OutOfMemoryError as error:
        status, message = "oom", str(error).splitlines()[0]
    except Exception as error:
        import traceback

        (folder / "error.txt").write_text(traceback.format_exc())
        status, message = "failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    result = Result(
        config.identity(run),
        status,
        message,
        losses=history.losses,
        validation=history.validation,
        plans=history.plans,
        tokens=history.tokens or None,
    )
    return result, {}, Measured(manifest=manifest(device, {}))


def _run(run: RunConfig, run_id: str, folder: Path, tracker: Tracker) -> tuple[Result | None, Items, Measured]:
    tracker.phase("load", 1)
    loaded = load(run, run_id)
    per_rank = run.training.batch_size // run.engine.ranks
    engine = make_engine(loaded.model, run, per_rank // (run.training.micro_batch_size or per_rank))
    start = time.perf_counter()
    history, clock, memory = History(), Clock(), Memory()
    if loaded.num_steps:
        history, clock, memory = train_or_resume(loaded, engine, folder, tracker)
    train_seconds = time.perf_counter() - start
    switches, num_trained = list(engine.switch_seconds), engine.num_trained()
    model = trained_model(loaded, engine)
    del engine
    gc.collect()
    if model is None:
        return None, {}, Measured()
    tracker.phase("evaluate", len(run.eval.tasks))
    start = time.perf_counter()
    scores, items = evaluate(model, loaded.tokenizer, run.eval, run.hub, loaded.device) if run.eval.tasks else ([], {})
    if run.eval.judge.bench is not None:
        more, outcomes = judged(model, loaded.tokenizer, run.eval, run.hub, loaded.device, folder)
        scores, items = scores + more, items | outcomes
    eval_seconds = time.perf_counter() - start
    result = _result(loaded, history, num_trained, scores)
    if run.save.weights == "final":
        save_weights(loaded, model, folder, result)
    device = process.describe_device(run.engine.device)
    found = {
        run.model.id or run.model.name: origin(MODELS, run.model.id or "", run.hub, run.model.path, run.model.revision)
    }
    sources = found | loaded.data.sources
    measured = memory.measured(clock, train_seconds, eval_seconds, switches, manifest(device, sources))
    return result, items, measured


def _result(loaded: Loaded, history: History, num_trained: int, scores: list[Score]) -> Result:
    return Result(
        config=config.identity(loaded.run),
        status="ok",
        scores=scores,
        losses=history.losses,
        validation=history.validation,
        plans=history.plans,
        trainable_parameters=num_trained,
        total_parameters=loaded.num_parameters,
        tokens=history.tokens,
        data=loaded.data.card,
        findings=loaded.run.method.findings(),
    )


def main(path: str) -> int:
    """Execute the run that the parent wrote to `path`, as one rank of several."""
    torch.set_num_threads(max(1, torch.get_num_threads()))
    run = config.load(json.loads(Path(path).read_text()))
    done = execute(run, Path(path).parent)
    if done is not None and done.result.status not in record.FINAL:
        print(f"layerfit: {done.result.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
