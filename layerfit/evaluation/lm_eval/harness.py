"""Runs lm-eval on the trained model in memory; its results become scores and per-item outcomes.

Equivalent to its command line, without 7-20 s of indexing and a survey of the machine at every call; a test compares
the two item by item.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from layerfit.config.schema import EvalConfig, HubConfig
from layerfit.data.redirect import local_datasets
from layerfit.errors import UserError
from layerfit.evaluation.lm_eval.published import NUM_ITEMS
from layerfit.evaluation.lm_eval.tasks import check_tasks, task_manager
from layerfit.files.dataset_card import read_readme
from layerfit.models.hub import DATASETS, local_copy
from layerfit.records.record import Items, Score

if TYPE_CHECKING:
    import torch
    from lm_eval.tasks import TaskManager
    from torch import nn
    from transformers import PreTrainedTokenizerBase

SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
"""lm-eval's defaults: the same shots for every method."""


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: EvalConfig,
    hub: HubConfig,
    device: torch.device | str,
) -> tuple[list[Score], Items]:
    """Run every lm-eval task of an evaluation.

    The model is moved to `device`; its training mode and the global random state are restored.

    Returns:
        Scores of every task, subtask and aggregated group, sorted by key, and by score key the outcome of every item
        in the task's order (only of metrics that are means over items).

    Raises:
        UserError: if a task is unknown, its data is missing, or it fixes another number of shots.
    """
    check_tasks(config)
    if not config.tasks:
        return [], {}
    import torch

    from layerfit.evaluation.lm_eval.prefix import language_model

    scores: list[Score] = []
    items: Items = {}
    with ExitStack() as stack:
        for context in (
            quiet(),
            templates_compiled_once(),
            local_datasets(hub),
            evaluating(model),
            random_state(),
            torch.no_grad(),
        ):
            stack.enter_context(context)
        manager = task_manager(config)
        lm = language_model(model.to(device), tokenizer, config)
        for shots in sorted({task.num_fewshot for task in config.tasks}):
            names = [task.name for task in config.tasks if task.num_fewshot == shots]
            found = _Found(_ask(lm, manager, names, shots, config.limit), shots, hub)
            for score, outcome in found.all():
                scores.append(score)
                if outcome is not None:
                    items[score.key] = outcome
    return sorted(scores, key=lambda score: score.key), items


def _ask(lm: Any, manager: TaskManager, names: list[str], shots: int, limit: int | None) -> dict[str, Any]:
    """Return lm-eval's results of some tasks at one number of shots, with the seeds of its command line.

    Raises:
        UserError: if a task fixes another number of shots, or an answer does not fit the model.
    """
    import torch
    from lm_eval.evaluator import evaluate as ask

    random.seed(SEEDS["random"])
    np.random.seed(SEEDS["numpy"])  # noqa: NPY002 - the generator that lm-eval draws from
    torch.manual_seed(SEEDS["torch"])
    loaded = manager.load(names)
    for name, task in loaded["tasks"].items():
        fixed = task.get_config("num_fewshot")
        if fixed == 0 and shots:
            raise UserError(f"task {name} fixes num_fewshot=0, but {shots} are set; set num_fewshot: 0 in conf/eval")
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=SEEDS["fewshot"])
    try:
        results = ask(lm=lm, task_dict=loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    except AssertionError as error:  # lm-eval's only check of a request, without a message
        why = str(error) or f"an answer is longer than the model's {lm.max_length} positions"
        raise UserError(
            f"lm-eval cannot run {', '.join(names)}: {why}; leave that task out, or set eval.limit"
        ) from error
    assert results is not None, "one process evaluates"
    return results


@dataclass(frozen=True)
class _Found:
    """lm-eval's results of one call."""

    results: dict[str, Any]
    shots: int
    hub: HubConfig

    def all(self) -> Iterator[tuple[Score, list[float] | None]]:
        """Yield the scores of tasks, then of groups that aggregate, with the items' outcomes."""
        for name in [*self.results["samples"], *self.results.get("groups", {})]:
            for key, value in self.results["results"][name].items():
                metric, comma, label = key.partition(",")
                if comma and not metric.endswith("_stderr"):
                    yield self._score(name, metric, label, value)

    def _score(self, name: str, metric: str, label: str, value: float) -> tuple[Score, list[float] | None]:
        leaves = self._leaves(name)
        samples = [s for leaf in leaves for s in self.results["samples"][leaf] if s["filter"] == label]
        outcome = [s.get(metric) for s in samples]
        numbers = [float(x) for x in outcome if isinstance(x, int | float | np.number)]
        is_mean = len(numbers) == len(samples) and math.isclose(float(np.mean(numbers)), value, abs_tol=1e-9)
        counts = [self.results["n-samples"][leaf] for leaf in leaves]
        available = sum(count["original"] for count in counts)
        score = Score(
            task=name,
            metric=metric if label == "none" else f"{metric},{label}",
            value=float(value),
            stderr=standard_error(numbers) if is_mean else None,
            num_items=sum(count["effective"] for count in counts),
            num_available=available,
            num_fewshot=self.shots,
            version=str(self.results["versions"][name]),
            higher_is_better=bool(self.results["higher_is_better"][leaves[0]][metric]),
            docs=hash_of([s["doc_hash"] for s in samples]),
            data_complete=self._complete(name, leaves, available),
        )
        return score, numbers if is_mean else None

    def _leaves(self, name: str) -> list[str]:
        """Return the tasks of a group in order, or the task itself."""
        children = self.results["group_subtasks"].get(name)
        return [leaf for child in children for leaf in self._leaves(child)] if children else [name]

    def _complete(self, name: str, leaves: list[str], available: int) -> bool:
        """Return False if the data is known not to be the published set, or the shots come from a cut copy."""
        known = NUM_ITEMS.get(name)
        if known is not None and known != available:
            return False
        cut = any(is_cut(self.results["configs"][leaf].get("dataset_path"), self.hub) for leaf in leaves)
        return not cut or (known is not None and self.shots == 0)


def is_cut(dataset: str | None, hub: HubConfig) -> bool:
    """Return whether a dataset's local copy is marked as CUT (incomplete) in its README."""
    folder = local_copy(DATASETS, dataset, hub) if dataset else None
    return folder is not None and re.search(r"\bCUT\b", read_readme(folder)[1]) is not None


def standard_error(numbers: list[float]) -> float | None:
    """Return the standard error of a mean, None for fewer than two numbers."""
    return float(np.std(numbers, ddof=1) / math.sqrt(len(numbers))) if len(numbers) > 1 else None


def hash_of(parts: list[str]) -> str:
    """Return the hash of texts in order."""
    return hashlib.blake2s("\n".join(parts).encode(), digest_size=8).hexdigest()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and restore its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def random_state() -> Iterator[None]:
    """Restore the state of the global random generators afterwards."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Let lm-eval compile a prompt template once, not per item, which takes more than half the time of short items."""
    from lm_eval import utils

    compile_template = utils.env.from_string
    utils.env.from_string = lru_cache(maxsize=1024)(compile_template)
    try:
        yield
    finally:
        utils.env.from_string = compile_template


@contextmanager
def quiet() -> Iterator[None]:
    """Reduce the logs of lm-eval and transformers to errors, and show progress bars in terminals only."""
    from tqdm import tqdm

    original = tqdm.__init__
    levels = {name: logging.getLogger(name).level for name in ("lm_eval", "transformers")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)

    def hidden(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs | {"disable": True})

    if not sys.stderr.isatty():
        tqdm.__init__ = hidden
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        tqdm.__init__ = original
