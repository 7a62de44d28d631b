"""Evaluation by generation: deterministic search with four beams, answers by pattern match (`generative_tasks`).

Deviations from the published code, all towards its intention: padding is masked (LLM-Adapters issue 61), nothing is
sampled, and nothing is inherited from the checkpoint's generation settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerfit.config.schema import EvalConfig, HubConfig
from layerfit.evaluation.generative_tasks import GROUPS, TASKS, Item, expand, load_items
from layerfit.evaluation.lm_eval.harness import evaluating, hash_of, quiet, random_state, standard_error
from layerfit.records.record import Items, Score

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import GenerationConfig, PreTrainedTokenizerBase

VERSION = "llm_adapters 1"
NUM_BEAMS = 4
METRICS = {"acc": True, "unparsed": False, "truncated": False}
"""Metric -> higher is better. unparsed: share of answers in which the pattern is not found (they count as wrong).
truncated: share of prompts that lost tokens on the left because the model has too few positions."""


@dataclass(frozen=True)
class Generation:
    """The model's continuation of a prompt, without special tokens. truncated: the prompt was cut."""

    text: str
    truncated: bool


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: EvalConfig,
    hub: HubConfig,
    device: torch.device | str,
) -> tuple[list[Score], Items]:
    """Run the generative tasks of an evaluation.

    The model is moved to `device`; its training mode, generation settings and the random state are restored.

    Returns:
        Scores of every task and group, and by score key the outcome of every item (a group's mean has none).

    Raises:
        UserError: if a task is unknown, or its data is missing or lacks a column.
    """
    scores: list[Score] = []
    items: Items = {}
    for name in expand(config):
        asked = load_items(name, hub)
        chosen = asked[: config.limit]
        prompts = [item.prompt() for item in chosen]
        size = TASKS[name].max_new_tokens
        replies = generate(model, tokenizer, prompts, size, config.batch_size, device)
        for metric, outcome in outcomes(name, chosen, replies).items():
            score = _score(name, metric, outcome, chosen, len(asked))
            scores.append(score)
            items[score.key] = outcome
    for task in config.tasks:
        if task.name in GROUPS:
            scores += [_mean_score(task.name, metric, scores) for metric in METRICS]
    return scores, items


def outcomes(name: str, items: list[Item], replies: list[Generation]) -> dict[str, list[float]]:
    """Return, by metric, one number per item."""
    reading = TASKS[name].reading
    found = [reading.find(reply.text) for reply in replies]
    return {
        "acc": [float(reading.right(f, item.answer)) for f, item in zip(found, items, strict=True)],
        "unparsed": [float(f is None) for f in found],
        "truncated": [float(reply.truncated) for reply in replies],
    }


def _score(name: str, metric: str, outcome: list[float], items: list[Item], available: int) -> Score:
    return Score(
        task=name,
        metric=metric,
        value=sum(outcome) / len(outcome),
        stderr=standard_error(outcome),
        num_items=len(items),
        num_available=available,
        num_fewshot=0,
        version=VERSION,
        higher_is_better=METRICS[metric],
        docs=hash_of([f"{item.instruction}\n{item.answer}" for item in items]),
        data_complete=available == TASKS[name].num_items,  # no shots: only the test items matter
    )


def _mean_score(group: str, metric: str, scores: list[Score]) -> Score:
    """Return the unweighted mean over a group's tasks; its standard error takes the tasks as independent."""
    parts = [score for name in GROUPS[group] for score in scores if score.task == name and score.metric == metric]
    errors = [score.stderr for score in parts]
    known = [error for error in errors if error is not None]
    return Score(
        task=group,
        metric=metric,
        value=sum(score.value for score in parts) / len(parts),
        stderr=math.hypot(*known) / len(parts) if len(known) == len(parts) else None,
        num_items=sum(score.num_items for score in parts),
        num_available=sum(score.num_available for score in parts),
        num_fewshot=0,
        version=VERSION,
        higher_is_better=METRICS[metric],
        docs=hash_of([score.docs for score in parts]),
        data_complete=all(score.data_complete for score in parts),
    )


def settings(tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """Return the protocol's generation settings, with every value that could change an answer explicit."""
    from transformers import GenerationConfig

    return GenerationConfig(
        num_beams=NUM_BEAMS,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        min_new_tokens=0,
        early_stopping=False,
        length_penalty=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_return_sequences=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


@contextmanager
def generation_settings(model: nn.Module, chosen: GenerationConfig) -> Iterator[None]:
    """Replace the model's own settings by `chosen`: transformers 5 fills unset values of a call from the model's."""
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    saved = [vars(module)["generation_config"] for module in owners]
    for module in owners:
        vars(module)["generation_config"] = chosen
    try:
        yield
    finally:
        for module, old in zip(owners, saved, strict=True):
            vars(module)["generation_config"] = old


def max_positions(model: nn.Module) -> int | None:
    """Return a model's number of positions, None if it has no limit (BLOOM's are relative)."""
    names = ("max_position_embeddings", "n_positions")
    found = [getattr(model.config, name, None) for name in names]
    return next((number for number in found if isinstance(number, int)), None)


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int,
    batch_size: int,
    device: torch.device | str,
) -> list[Generation]:
    """Return the model's continuation of each prompt, in order.

    Prompts of similar length share a batch, padded on the left and masked, so the batch size does not change answers.
    """
    import torch

    with quiet():
        ids: list[list[int]] = tokenizer(prompts)["input_ids"] if prompts else []
    positions = max_positions(model)
    room = None if positions is None else max(1, positions - max_new_tokens)
    kept = ids if room is None else [tokens[-room:] for tokens in ids]
    order = sorted(range(len(ids)), key=lambda index: len(kept[index]), reverse=True)
    texts = [""] * len(ids)
    chosen = settings(tokenizer, max_new_tokens)
    model.to(device)
    with ExitStack() as stack:
        for context in (quiet(), evaluating(model), random_state(), generation_settings(model, chosen)):
            stack.enter_context(context)
        stack.enter_context(torch.no_grad())
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            written = _write(model, [kept[index] for index in batch], chosen, device)
            for index, text in zip(batch, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                texts[index] = text
    return [Generation(text, len(k) < len(i)) for text, k, i in zip(texts, kept, ids, strict=True)]


def _write(model: Any, prompts: list[list[int]], chosen: GenerationConfig, device: torch.device | str) -> torch.Tensor:
    """Return the new tokens, [prompts, at most max_new_tokens], padded on the right."""
    import torch

    width = max(map(len, prompts))
    pad = [width - len(tokens) for tokens in prompts]
    ids = torch.tensor([[chosen.pad_token_id] * n + tokens for n, tokens in zip(pad, prompts, strict=True)])
    mask = torch.tensor([[0] * n + [1] * len(tokens) for n, tokens in zip(pad, prompts, strict=True)])
    out = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=chosen)
    return out[:, width:].cpu()
