"""Going on where a run has stopped: from its checkpoint if that can be used, else from the start, and saying so."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from layerfit.engines.base import Engine
from layerfit.engines.groups import full_shape
from layerfit.errors import UserError
from layerfit.run import checkpoint
from layerfit.run.attempt import Attempt
from layerfit.run.checkpoint import Unusable
from layerfit.run.failures import describe_error, say
from layerfit.run.history import History, history_dict, restore
from layerfit.run.loading import Loaded
from layerfit.run.norms import Norms

NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Training:
    """Everything that a checkpoint holds the state of."""

    attempt: Attempt
    loaded: Loaded
    engine: Engine
    norms: Norms | None

    @property
    def path(self) -> Path:
        """The run's checkpoint."""
        return self.attempt.folder / NAME


def resume(training: Training) -> None:
    """Go on from the last checkpoint; every rank must call. History, method, engine and norms are filled in place.

    A checkpoint that one rank cannot use is set aside, and all of them start anew.

    Raises:
        UserError: if the ranks do not find the same checkpoint.
    """
    engine, run = training.engine, training.attempt.run
    saved, why = None, None
    try:
        saved = checkpoint.load(training.path)
        if saved is not None:
            _check(saved, training)
    except Unusable as error:
        why = str(error)
    if engine.any(why is not None):
        done = checkpoint.set_aside(training.path, why or "another rank cannot use it")
        if done is not None:
            training.attempt.tracker.note(done)
        return
    if not engine.agree(0 if saved is None else 1 + len(saved["history"]["losses"])):
        raise UserError(
            f"the ranks do not find the same checkpoint in paths.outputs={run.paths.outputs}; "
            "it must be on a file system that all of them share"
        )
    if saved is not None:
        restore(training.attempt.history, saved["history"])
        checkpoint.restore(training.loaded.state, saved["method"])
        engine.load_state_dict(saved["engine"])
        if training.norms is not None:
            training.norms.load_state_dict(saved["norms"])


def _check(saved: dict[str, Any], training: Training) -> None:
    """Compare a checkpoint with the run, before anything is taken from it.

    Raises:
        Unusable: if it is another run's, or does not fit the method or the model.
    """
    run_id = training.attempt.run_id
    if saved.get("run_id") != run_id:
        raise Unusable(f"it is of run {saved.get('run_id')}, and this is {run_id}")
    if set(saved) != {"format", "run_id", "history", "method", "engine", "norms"}:
        raise Unusable(f"it holds {', '.join(sorted(saved))}")
    if set(saved["history"]) != {field.name for field in fields(History)}:
        raise Unusable(f"its history holds {', '.join(sorted(saved['history']))}")
    checkpoint.check_state(training.loaded.state, saved["method"])
    if (saved["norms"] is None) != (training.norms is None):
        raise Unusable("weight norms were counted in one of the two")
    _check_tensors(saved["engine"], training.engine)


def _check_tensors(saved: dict[str, Any], engine: Engine) -> None:
    """Compare the shapes of what an engine is to load with its model's.

    Raises:
        Unusable: if they differ.
    """
    weights, states = saved["weights"], saved["states"]
    if set(weights) != engine.among or not set(states) <= engine.among:
        odd = sorted(set(weights) ^ engine.among) or sorted(set(states) - engine.among)
        raise Unusable(f"it does not fit the model: {odd[0]} is in one of the two")
    for name, value in weights.items():
        shape = full_shape(engine.parameters[name])
        if tuple(value.shape) != shape:
            raise Unusable(f"it does not fit the model: {name} has shape {tuple(value.shape)}, not {shape}")
        options = engine.optimizer_spec.options(engine.anatomy.unit(name) or engine.anatomy.canonical(name), shape)
        moment = states.get(name, {}).get("exp_avg")
        size = options["rank"] * max(shape) if "rank" in options else math.prod(shape)
        if moment is not None and moment.numel() != size:
            raise Unusable(f"it does not fit the optimizer: {name} has {moment.numel()} moments, not {size}")


def save(training: Training, *, stops: bool) -> None:
    """Write a checkpoint; every rank takes part, rank 0 writes. stops: whether the run ends here unfinished.

    A checkpoint is for a run that is stopped: one that cannot be written costs nothing while the run goes on.

    Raises:
        OSError: if it cannot be written and the run stops, which loses the steps since the last one.
    """
    content = {
        "run_id": training.attempt.run_id,
        "history": history_dict(training.attempt.history),
        "method": checkpoint.fields_of(training.loaded.state),
        "engine": training.engine.state_dict(),
        "norms": None if training.norms is None else training.norms.state_dict(),
    }
    if training.engine.rank != 0:
        return
    try:
        checkpoint.save(training.path, content)
    except OSError as error:
        if stops:
            raise
        step = training.attempt.history.step
        note = f"no checkpoint after step {step}: {describe_error(error)}; the run goes on without it"
        say(f"layerfit: {note}")
        training.attempt.tracker.note(note)
