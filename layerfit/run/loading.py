"""Everything a run needs before its first step: tokenizer, data, and the adapted model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.data import FineTuningData, load_data, steps_for_epochs
from layerfit.data.card import check_known
from layerfit.distributed import process
from layerfit.engines.base import set_seed
from layerfit.errors import UserError
from layerfit.evaluation.judge.answers import check_template
from layerfit.models.architecture import read_model_parts
from layerfit.models.hub import load_model, load_tokenizer, model_source
from layerfit.records import record


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
    num_parameters: int


def findings_of(run: RunConfig) -> list[dict[str, Any]]:
    """Return what the method must receive: the findings of its required runs, or of a file it names.

    Raises:
        UserError: if they are not there.
    """
    out = []
    for required in config.required_runs(run):
        found = record.read(run.paths.results, config.run_id(required))
        if found is None or found.result.status != "ok":
            raise UserError(f"run {config.run_id(required)} ({required.method_name()}) must be ok before this one")
        out.append(found.result.findings)
    path = run.method.reads()
    return out if path is None else [record.read_findings(path)]


def fresh_model(run: RunConfig, device: torch.device) -> nn.Module:
    """Return the adapted model before training; the same on every rank."""
    model = load_model(run.model, run.hub, run.training.dtype, device=str(device), seed=run.seed)
    if findings := findings_of(run):
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
    read_model_parts(run.model, model_source(run.model, run.hub))
    config.check_against_model(run)
    device = process.device_for(run.engine.device)
    tokenizer = load_tokenizer(run.model, run.hub)
    if run.eval.judge.benchmarks:
        check_template(run.eval.judge, tokenizer)
    data = load_data(run.dataset, run.training, run.hub, tokenizer, Path(run.paths.outputs) / "cache" / "tokens")
    if process.rank() == 0:
        print(data.about, flush=True)
    if run.method.trains:
        check_known(data.card, run.dataset.name, run.model.name)
    training = run.training
    steps = training.max_steps or steps_for_epochs(training.epochs or 0, data.num_rows, training.batch_size)
    if not run.method.trains:
        steps = 0
    model = fresh_model(run, device)
    total = sum(p.numel() for p in model.parameters())
    return Loaded(run, run_id, device, model, tokenizer, data, steps, total)
