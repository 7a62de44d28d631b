"""One rank of one run: load, train, evaluate, record. `python -m layerfit.worker RUN.json` is one rank of several."""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerfit import checkpoint, config, record
from layerfit.data import FineTuningData, load_data, steps_for_epochs
from layerfit.engines import make_engine, process
from layerfit.engines.base import Engine, set_seed
from layerfit.errors import UserError
from layerfit.evaluation.harness import evaluate
from layerfit.hub import MODELS, load_model, load_tokenizer, origin, prepare_environment
from layerfit.loop import Clock, Diverged, History, history_dict, history_from, train
from layerfit.manifest import manifest
from layerfit.measure import Memory, memory_of, watch_activations
from layerfit.record import Items, Measured, Record, Result, Score
from layerfit.schema import RunConfig
from layerfit.track import Silent, Tracker, make_tracker


@dataclass
class Loaded:
    """A run's model, data and length."""

    run: RunConfig
    run_id: str
    device: torch.device
    model: nn.Module
    tokenizer: Any
    data: FineTuningData
    num_steps: int
    parameters: tuple[int, int]
    """Trainable (at most, over all plans) and total."""


def findings_of(run: RunConfig) -> dict[str, Any] | None:
    """Return what the method must receive: the findings of its required run, or of a file it names.

    Raises:
        UserError: if they are not there.
    """
    required = config.required_run(run)
    if required is not None:
        found = record.read(run.paths.results, config.run_id(required))
        if found is None or found.result.status != "ok":
            raise UserError(f"run {config.run_id(required)} ({required.method_name()}) must be ok before this one")
        return found.result.findings
    path = run.method.reads()
    return None if path is None else record.read_findings(path)


def fresh_model(run: RunConfig, device: torch.device) -> nn.Module:
    """Return the adapted model before training; the same on every rank."""
    model = load_model(run.model, run.hub, run.training.dtype, device=str(device), seed=run.seed)
    if (findings := findings_of(run)) is not None:
        run.method.receive(findings, run.shape())
    set_seed("adapt", run.method.seed)
    model = run.method.adapt(model, run.model.anatomy())
    if run.training.activation_checkpointing:
        # transformers makes the embedding's output require gradients, so frozen blocks below the lowest active one
        # would be recomputed and back-propagated; and re-entrant checkpointing would silently drop gradients.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
        model.disable_input_require_grads()  # type: ignore[operator]
    return model


def load(run: RunConfig, run_id: str) -> Loaded:
    """Load everything a run needs."""
    device = process.device_for(run.engine.device)
    tokenizer = load_tokenizer(run.model, run.hub)
    data = load_data(run.dataset, run.training, run.hub, tokenizer, Path(run.paths.outputs) / "cache" / "tokens")
    if process.rank() == 0:
        print(data.about, flush=True)
    training = run.training
    steps = training.max_steps or steps_for_epochs(training.epochs or 0, data.num_rows, training.batch_size)
    if not run.method.trains:
        steps = 0
    model = fresh_model(run, device)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad) if run.method.trains else 0
    total = sum(p.numel() for p in model.parameters())
    return Loaded(run, run_id, device, model, tokenizer, data, steps, (trainable, total))


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


def save_weights(loaded: Loaded, model: nn.Module, folder: Path) -> None:
    """Write `model/`, or `adapter/` for adapters, under a temporary name first."""
    adapter = hasattr(model, "peft_config")
    target = folder / ("adapter" if adapter else "model")
    writing = folder / f".{target.name}.writing"
    model.save_pretrained(writing)  # type: ignore[operator]
    loaded.tokenizer.save_pretrained(writing)
    if target.exists():
        return
    writing.rename(target)


def execute(run: RunConfig, folder: Path) -> Record | None:
    """Execute a run on this rank; rank 0 writes the record and returns it.

    Raises:
        UserError: for a mistake in what was asked; anything else a run can die of becomes its record's status.
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
    if result is None:
        return None
    done = Record(run_id, run.method_name(), run.label, result, measured)
    record.write(done, items, run.paths.results)
    if result.findings.get("ranking"):
        ranking = {"run_id": run_id, "model": run.model.name, "dataset": run.dataset.name, **result.findings["ranking"]}
        text = json.dumps(ranking, indent=1) + "\n"
        record.write_atomically(Path(run.paths.results) / "rankings" / f"{run_id}.json", text.encode())
    if result.status in ("ok", "diverged"):
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    tracker.finish(done)
    tracker.close()
    return done


def _outcome(run: RunConfig, run_id: str, folder: Path, tracker: Tracker) -> tuple[Result | None, Items, Measured]:
    """Return result, items and measurements; result is None on ranks that do not write."""
    device = process.describe_device(run.engine.device)
    try:
        return _run(run, run_id, folder, tracker)
    except UserError:
        raise
    except Diverged as error:
        status, message = "diverged", str(error)
    except torch.OutOfMemoryError as error:
        status, message = "oom", str(error).splitlines()[0]
    except Exception as error:
        import traceback

        (folder / "error.txt").write_text(traceback.format_exc())
        status, message = "failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return Result(config.identity(run), status, message), {}, Measured(manifest=manifest(device, {}))


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
    switches = list(engine.switch_seconds)
    model = trained_model(loaded, engine)
    del engine
    gc.collect()
    if model is None:
        return None, {}, Measured()
    if run.save.weights == "final":
        save_weights(loaded, model, folder)
    tracker.phase("evaluate", len(run.eval.tasks))
    start = time.perf_counter()
    scores, items = evaluate(model, loaded.tokenizer, run.eval, run.hub, loaded.device) if run.eval.tasks else ([], {})
    eval_seconds = time.perf_counter() - start
    result = _result(loaded, history, scores)
    device = process.describe_device(run.engine.device)
    model_source = {run.model.id: origin(MODELS, run.model.id, run.hub, run.model.path, run.model.revision)}
    sources = model_source | loaded.data.sources
    measured = memory.measured(clock, train_seconds, eval_seconds, switches, manifest(device, sources))
    return result, items, measured


def _result(loaded: Loaded, history: History, scores: list[Score]) -> Result:
    trainable, total = loaded.parameters
    return Result(
        config=config.identity(loaded.run),
        status="ok",
        scores=scores,
        losses=history.losses,
        validation=history.validation,
        plans=history.plans,
        trainable_parameters=trainable,
        total_parameters=total,
        tokens=history.tokens,
        data=loaded.data.card,
        findings=loaded.run.method.findings(),
    )


def main(path: str) -> int:
    """Execute the run that the parent wrote to `path`, as one rank of several."""
    torch.set_num_threads(max(1, torch.get_num_threads()))
    run = config.load(json.loads(Path(path).read_text()))
    try:
        execute(run, Path(path).parent)
    except UserError as error:
        print(f"layerfit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
