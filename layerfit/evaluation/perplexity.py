"""Perplexity of a text in overlapping windows: every token is predicted once, from at least `window - stride` others.

Defined as in transformers' guide "Perplexity of fixed-length models" (rows joined by blank lines, stride 512), per
token of the model's own vocabulary, as the literature on OPT and LLaMA reports WikiText-2. The IST paper reports
OPT-1.3B on WikiText without its definition. lm-eval's `wikitext` differs (pages, detokenised, per word).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfit.config.schema import DatasetConfig, EvalConfig, HubConfig
from layerfit.data.sources import Part, read_rows
from layerfit.errors import UserError
from layerfit.files.dataset_folder import data_files
from layerfit.models.hub import dataset_source
from layerfit.records.record import Items, Score

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

WINDOW = 2048
"""Positions of a window, or the model's if fewer: the context length of OPT and LLaMA, so that models compare."""
STRIDE = 512


@dataclass(frozen=True)
class Corpus:
    """A text on the hub: the column `text` of a split. num_rows: of the published split."""

    dataset: str
    subset: str
    split: str
    num_rows: int


TEXTS: dict[str, Corpus] = {
    "wikitext_ppl": Corpus("Salesforce/wikitext", "wikitext-2-raw-v1", "test", 4358),  # arXiv:1609.07843
}


@dataclass(frozen=True)
class Chunk:
    """Tokens [first, end) are predicted from the tokens [begin, ...) before each."""

    begin: int
    first: int
    end: int


def chunks(num_tokens: int, window: int, stride: int) -> list[Chunk]:
    """Return the chunks of a text, `stride` tokens each but for the last; the first token of all has no prediction."""
    starts = range(0, num_tokens, stride)
    found = [Chunk(max(0, s + stride - window), max(1, s), min(s + stride, num_tokens)) for s in starts]
    return [chunk for chunk in found if chunk.first < chunk.end]


def _batches(found: list[Chunk], size: int) -> Iterator[list[Chunk]]:
    """Yield batches of at most `size` neighbours of equal shape: no padding and no mask are needed."""
    batch: list[Chunk] = []
    for chunk in found:
        same = batch and (chunk.end - chunk.begin, chunk.end - chunk.first) == (
            batch[0].end - batch[0].begin,
            batch[0].end - batch[0].first,
        )
        if batch and (not same or len(batch) == size):
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch


def negative_log_likelihood(
    model: nn.Module, ids: list[int], found: list[Chunk], batch_size: int, device: torch.device | str
) -> float:
    """Return the sum over the chunks' tokens, in nats, accumulated in double precision."""
    import torch
    from torch.nn.functional import cross_entropy

    total = 0.0
    for batch in _batches(found, batch_size):
        inputs = torch.tensor([ids[chunk.begin : chunk.end] for chunk in batch], device=device)
        number = batch[0].end - batch[0].first
        logits = model(input_ids=inputs).logits[:, -number - 1 : -1].float()
        total += float(
            cross_entropy(logits.flatten(0, 1), inputs[:, -number:].flatten(), reduction="none").double().sum()
        )
    return total


def perplexity(nats: float) -> float:
    """Return exp(nats per token), infinity where no float holds it: a score that is refused, not a crash."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def _text(name: str, hub: HubConfig) -> tuple[str, int]:
    """Return a text and the number of its rows."""
    text = TEXTS[name]
    rows = read_rows(DatasetConfig(name=name, id=text.dataset, subset=text.subset), text.split, hub)
    if "text" not in rows[0]:
        raise UserError(f"{name} needs the column 'text' of {text.dataset}; it has {', '.join(sorted(rows[0]))}")
    return "\n\n".join(row["text"] for row in rows), len(rows)


def data(config: EvalConfig) -> list[Part]:
    """Return the data that the texts are read from."""
    texts = {task.name: TEXTS[task.name] for task in config.tasks if task.name in TEXTS}
    return [Part(name, text.dataset, text.subset, text.split) for name, text in texts.items()]


def check(config: EvalConfig, hub: HubConfig) -> None:
    """Check the names, and the split where the data is local.

    Raises:
        UserError: if a text or its split is unknown or missing, naming it.
    """
    for task in config.tasks:
        if task.name not in TEXTS:
            raise UserError(f"eval={config.name} has no text {task.name!r}; use one of: {', '.join(TEXTS)}")
        if task.num_fewshot:
            raise UserError(f"{task.name} has num_fewshot={task.num_fewshot} but takes no shots; set 0")
        text = TEXTS[task.name]
        source = dataset_source(text.dataset, hub)
        if isinstance(source, Path) and text.split not in data_files(source, text.subset):
            raise UserError(f"{task.name} needs the split {text.split!r} of {text.dataset}; {source} lacks it")


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: EvalConfig,
    hub: HubConfig,
    device: torch.device | str,
) -> tuple[list[Score], Items]:
    """Measure the perplexity of every text of an evaluation; `eval.limit` counts chunks of `STRIDE` tokens.

    Returns:
        `token_perplexity` and `bits_per_byte` (comparable across vocabularies) of every text; no items, as neither is a
        mean over items.

    Raises:
        UserError: if a text is unknown or missing.
    """
    import torch

    from layerfit.evaluation.generative import max_positions
    from layerfit.evaluation.lm_eval.harness import evaluating, quiet, random_state

    check(config, hub)
    window = min(WINDOW, max_positions(model) or WINDOW)
    stride = min(STRIDE, window // 2)
    scores: list[Score] = []
    with ExitStack() as stack:
        for context in (quiet(), evaluating(model), random_state(), torch.no_grad()):
            stack.enter_context(context)
        model.to(device)
        for task in config.tasks:
            text, rows = _text(task.name, hub)
            encoded: Any = tokenizer(text, return_offsets_mapping=True)
            ids = encoded["input_ids"]
            every = chunks(len(ids), window, stride)
            asked = every[: config.limit]
            end = asked[-1].end
            read = text if end == len(ids) else text[: encoded["offset_mapping"][end - 1][1]]
            total = negative_log_likelihood(model, ids, asked, config.batch_size, device)
            values = {
                "token_perplexity": perplexity(total / (end - 1)),
                "bits_per_byte": total / math.log(2) / len(read.encode()),
            }
            complete = rows == TEXTS[task.name].num_rows
            setting = f"1, windows of {window}, stride {stride}"
            scores += [
                _score(task.name, metric, value, (len(asked), len(every)), setting, read, complete)
                for metric, value in values.items()
            ]
    return scores, {}


def _score(
    name: str, metric: str, value: float, counts: tuple[int, int], version: str, read: str, complete: bool
) -> Score:
    from layerfit.evaluation.lm_eval.harness import hash_of

    return Score(
        task=name,
        metric=metric,
        value=value,
        stderr=None,
        num_items=counts[0],
        num_available=counts[1],
        num_fewshot=0,
        version=version,
        higher_is_better=False,
        docs=hash_of([read]),
        data_complete=complete,
    )
