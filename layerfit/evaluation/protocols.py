"""The entry point of evaluation: each task is passed to its protocol, and all return scores in one form.

A protocol is a few functions, named here and imported when needed: `check` must import nothing heavy (it runs before
anything is loaded), `evaluate` may. A new protocol is an entry of `PROTOCOLS`.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerfit.config.schema import EvalConfig, HubConfig
from layerfit.data.sources import Part
from layerfit.errors import UserError, check_one_of
from layerfit.records.record import Items, Score

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Protocol:
    """Functions as `module:name`; each gets the evaluation with the tasks of this protocol only.

    check: (EvalConfig, HubConfig) -> None; raises UserError for errors that can be found early. No torch.
    evaluate: (model, tokenizer, EvalConfig, HubConfig, device) -> (scores, items), as `harness.evaluate`.
    data: (EvalConfig) -> parts of data sets that are read; None: those of `TaskConfig.hub_ids`.
    """

    check: str
    evaluate: str
    data: str | None = None


PROTOCOLS: dict[str, Protocol] = {
    "lm_eval": Protocol(
        "layerfit.evaluation.lm_eval.tasks:check",
        "layerfit.evaluation.lm_eval.harness:evaluate",
        "layerfit.evaluation.lm_eval.task_data:data",
    ),
    "generative": Protocol(
        "layerfit.evaluation.generative_tasks:check",
        "layerfit.evaluation.generative:evaluate",
        "layerfit.evaluation.generative_tasks:data",
    ),
    "perplexity": Protocol(
        "layerfit.evaluation.perplexity:check",
        "layerfit.evaluation.perplexity:evaluate",
        "layerfit.evaluation.perplexity:data",
    ),
}


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _by_protocol(config: EvalConfig) -> dict[str, EvalConfig]:
    """Return the evaluation split by protocol, in the order of `PROTOCOLS`.

    Raises:
        UserError: if a task's protocol is unknown, or a task is listed twice.
    """
    names = [task.name for task in config.tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"eval={config.name} lists {twice[0]} twice; give it one protocol and number of shots")
    for task in config.tasks:
        check_one_of(f"protocol of task {task.name}", task.protocol, tuple(PROTOCOLS))
    parts = {name: [task for task in config.tasks if task.protocol == name] for name in PROTOCOLS}
    return {name: dataclasses.replace(config, tasks=tasks) for name, tasks in parts.items() if tasks}


def check_protocols(config: EvalConfig, hub: HubConfig) -> None:
    """Check an evaluation before anything is loaded.

    Raises:
        UserError: if a task is unknown, or its local data does not fit it, naming the first; or if nothing reads
            `eval.include`.
    """
    if config.include is not None and all(task.protocol != "lm_eval" for task in config.tasks):
        raise UserError(
            f"eval.include={config.include} is for tasks of lm-eval, and eval={config.name} has none; leave it out"
        )
    for name, part in _by_protocol(config).items():
        _function(PROTOCOLS[name].check)(part, hub)


def data_parts(config: EvalConfig) -> list[Part]:
    """Return the parts of data sets that an evaluation reads; a task's hub ids that no part covers are whole parts.

    Raises:
        UserError: if a task is unknown.
    """
    parts: list[Part] = []
    for name, part in _by_protocol(config).items():
        if (function := PROTOCOLS[name].data) is not None:
            parts += _function(function)(part)
    known = {part.repo for part in parts}
    named = [Part(task.name, repo) for task in config.tasks for repo in task.hub_ids() if repo not in known]
    said = {part.task for part in named}
    return [part for part in parts if part.repo is not None or part.task not in said] + named


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: EvalConfig,
    hub: HubConfig,
    device: torch.device | str,
) -> tuple[list[Score], Items]:
    """Run every task of an evaluation, each by its protocol.

    Returns:
        Scores sorted by key, and by score key the outcome of every item (only of metrics that are means over items).

    Raises:
        UserError: if a task is unknown or its data is missing.
    """
    scores: list[Score] = []
    items: Items = {}
    for name, part in _by_protocol(config).items():
        found, outcomes = _function(PROTOCOLS[name].evaluate)(model, tokenizer, part, hub, device)
        scores += found
        items |= outcomes
    return sorted(scores, key=lambda score: score.key), items
