"""Everything a run needs before its first step: tokenizer, data, and the adapted model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerfit import config
from layerfit.anatomy import Anatomy
from layerfit.config.schema import RunConfig
from layerfit.data import FineTuningData, load_data, steps_for_epochs
from layerfit.data.card import check_known
from layerfit.data.check import check_probe_size
from layerfit.distributed import process
from layerfit.engines.base import set_seed
from layerfit.errors import UserError
from layerfit.evaluation.judge.answers import check_template
from layerfit.methods.rankings import ranking_file
from layerfit.models.architecture import checkpoint_activations, read_anatomy
from layerfit.models.hub import load_model, load_tokenizer, model_source
from layerfit.records import record
from layerfit.run.failures import say


@dataclass
class Loaded:
    """A run's model, data and length. state: what its method has learned so far (`Method.begin`)."""

    run: RunConfig
    device: torch.device
    model: nn.Module
    tokenizer: Any
    data: FineTuningData
    num_steps: int
    num_parameters: int
    anatomy: Anatomy
    state: Any


def findings_of(run: RunConfig, needs: Sequence[str]) -> list[dict[str, Any]]:
    """Return the findings that the method begins with: of its required runs, or of a file that it names.

    needs: the ids of the required runs.

    Raises:
        UserError: if they are not there.
    """
    out = []
    for needed in needs:
        found = record.read(run.paths.results, needed)
        if found is None or found.result.status != "ok":
            raise UserError(f"run {needed}, a ranking, must be ok before this one")
        out.append(found.result.findings)
    path = ranking_file(run.method)
    return out if path is None else [record.read_findings(path)]


def fresh_model(run: RunConfig, anatomy: Anatomy, state: Any, device: torch.device) -> nn.Module:
    """Return the adapted model before training; the same on every rank."""
    model = load_model(run.model, run.hub, run.training.dtype, device=str(device), seed=run.seed)
    set_seed("adapt", run.method.resolved_seed)
    model = run.method.adapt(model, anatomy, state)
    if run.training.activation_checkpointing:
        checkpoint_activations(model)
    return model


def load(run: RunConfig, needs: Sequence[str] | None = None) -> Loaded:
    """Load everything a run needs. needs: the ids of its required runs, None: not computed yet."""
    if needs is None:
        needs = [config.run_id(before) for before in config.required_runs(run)]
    anatomy = read_anatomy(run.model, model_source(run.model, run.hub))
    config.check_against_model(run, anatomy)
    device = process.device_for(run.engine.device)
    tokenizer = load_tokenizer(run.model, run.hub)
    if run.eval.judge.benchmarks:
        check_template(run.eval.judge, tokenizer)
    data = load_data(run.dataset, run.training, run.hub, tokenizer, Path(run.paths.outputs) / "cache" / "tokens")
    if process.rank() == 0:
        say(data.about, sys.stdout)
    probes = run.method.probe_source()
    if probes is not None and probes[0] == "validation":
        check_probe_size(probes[1], len(data.validation))
    if run.method.trains:
        check_known(data.card, run.dataset.name, run.model.name)
    steps = num_steps(run, data.num_rows)
    state = run.method.begin(anatomy.shape(steps), findings_of(run, needs))
    model = fresh_model(run, anatomy, state, device)
    total = sum(p.numel() for p in model.parameters())
    return Loaded(run, device, model, tokenizer, data, steps, total, anatomy, state)


def num_steps(run: RunConfig, num_rows: int) -> int:
    """Return the optimizer steps of a run on so many rows."""
    training = run.training
    if not run.method.trains:
        return 0
    if training.max_steps is not None:
        return training.max_steps
    assert training.epochs is not None, "one of the two is set"
    return steps_for_epochs(training.epochs, num_rows, training.batch_size)
