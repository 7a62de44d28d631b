"""A model class for lm-eval that computes common prefixes of requests once: the same results with less work.

Log-likelihood requests of one task share prefixes: all questions of a subject the same shots, all answers of a question
the question. Here a long common prefix is computed once and its keys and values are kept (chosen by `prefix_tree`),
answers follow their question as a tree in one row, and the head is applied only to tokens whose logits are needed.
lm-eval's own class computes every request in full and a softmax over every position.

Memory: a batch has no more tokens, nor keys and values, than `batch_size` requests of the longest length have in
lm-eval's own class, and the kept prefix takes no more bytes than that class's logits of them.
Everything else (tokenising, rolling log-likelihood, generation) is inherited.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedTokenizerBase

from layerfit.config.schema import EvalConfig
from layerfit.evaluation.lm_eval.prefix_forward import head_of, kept, logits, plain, unsupported, window_of
from layerfit.evaluation.lm_eval.prefix_tree import Cost, Group, Planner, Tree, batches, common, tree

log = logging.getLogger(__name__)

Likelihood = tuple[float, bool]
"""Log-likelihood of a continuation, and whether greedy decoding would produce it."""
Encoded = tuple[Any, list[int], list[int]]
"""lm-eval's request: (context, continuation) as text or None, and the tokens of both."""


def language_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, config: EvalConfig) -> HFLM:
    """Return the model for lm-eval: our class, or lm-eval's own if `eval.model_class=stock` or ours cannot run it."""
    settings: dict[str, Any] = {"pretrained": model, "tokenizer": tokenizer, "batch_size": config.batch_size}
    settings["trust_remote_code"] = False
    if config.model_class == "stock":
        return HFLM(**settings)
    if (reason := unsupported(model)) is not None:
        log.warning("%s is evaluated by lm-eval's own model class: %s", type(plain(model)).__name__, reason)
        return HFLM(**settings)
    return SharedPrefixLM(**settings)


@dataclass
class _Batch:
    """Rows of one forward pass."""

    trees: list[Tree]
    members: list[list[int]]
    """Sequences of every row."""


class SharedPrefixLM(HFLM):
    """HFLM that computes common prefixes of log-likelihood requests once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        head = head_of(self.model)
        assert head is not None, "checked by `unsupported`"
        self._head = head
        self._last: tuple[str, list[int]] = ("", [])

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As in HFLM, but the context is encoded once for all its continuations."""
        spaces = len(context) - len(context.rstrip())
        text = context[: len(context) - spaces]
        whole = self.tok_encode(context + continuation)
        if self._last[0] != text or not self._last[1]:
            self._last = (text, self.tok_encode(text))
        tokens = self._last[1]
        return list(tokens), whole[len(tokens) :]

    def _loglikelihood_tokens(
        self, requests: list[Encoded], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Likelihood]:
        """Return the answers in the order of the requests."""
        if override_bs is not None or not isinstance(self.batch_size, int):
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        most = self.max_length
        for _, context, continuation in requests:
            assert context, "a context has tokens"
            assert continuation, "a continuation has tokens"
            assert len(continuation) <= most, f"an answer is longer than the model's {most} positions"
        # The model's input: all tokens but the last, truncated on the left.
        inputs = [tuple((c + a)[-(most + 1) :][:-1]) for _, c, a in requests]
        if cut := sum(len(c) + len(a) > most + 1 for _, c, a in requests):
            log.info("%d of %d requests are cut on the left to %d tokens", cut, len(requests), most)
        answers: dict[int, Likelihood] = {}
        window = window_of(self.model) or most
        far = [i for i, tokens in enumerate(inputs) if len(tokens) > window]
        near = [i for i, tokens in enumerate(inputs) if len(tokens) <= window]
        if far:
            whole = super()._loglikelihood_tokens([requests[i] for i in far], disable_tqdm)
            answers.update(zip(far, whole, strict=True))
        with tqdm(total=len(near), disable=disable_tqdm or self.rank != 0, desc="Running requests") as bar:
            for i, answer in Asked(self, requests, inputs, near).answers():
                answers[i] = answer
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], answer)
                bar.update(1)
        return [answers[i] for i in range(len(requests))]

    def log_probabilities(self, batch: _Batch, base: DynamicCache | None, asked: list[list[int]]) -> torch.Tensor:
        """Return the log-probabilities [N, V] at the `asked` positions of every row, in HFLM's precision."""
        enabled = self.mixed_precision_dtype is not None
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self.mixed_precision_dtype, enabled=enabled):
            found = logits(self.model, self._head, batch.trees, base, asked)
        return functional.log_softmax(found, dim=-1, dtype=self.softmax_dtype)

    def keep(self, tokens: list[int]) -> DynamicCache:
        """Return the keys and values of a common prefix."""
        enabled = self.mixed_precision_dtype is not None
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self.mixed_precision_dtype, enabled=enabled):
            return kept(self.model, self._head, tokens)

    def cost(self, longest: int) -> Cost:
        """Return the cost model of this network, for requests of at most `longest` tokens."""
        config = plain(self.model).config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * width
        embedding = plain(self.model).get_input_embeddings().weight
        tables = {id(t): t.numel() for t in (embedding, *self._head.parameters())}
        block = (sum(p.numel() for p in self.model.parameters()) - sum(tables.values())) / config.num_hidden_layers
        stock_logits = self.batch_size * longest * embedding.shape[0] * 2
        return Cost(
            # 2 operations per parameter of a block, 4 per query-key pair and channel; attention reaches about a
            # quarter of the arithmetic rate of a matrix product.
            per_token=max(block, 1) / (2 * heads * width) / 4,
            max_base=stock_logits // (2 * keys * config.num_hidden_layers),
            max_row=self.batch_size * longest,
        )


class Asked:
    """The requests of one call: sorted, merged where their inputs are equal, planned, answered."""

    def __init__(self, lm: SharedPrefixLM, requests: list[Encoded], inputs: list[tuple[int, ...]], of: list[int]):
        self.lm, self.requests = lm, requests
        same: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i in of:
            same[inputs[i]].append(i)
        self.sequences = sorted(same)
        self.askers = [same[tokens] for tokens in self.sequences]
        self.keep = [max(len(requests[i][2]) for i in askers) for askers in self.askers]
        self.shared = common(self.sequences)
        longest = max(map(len, self.sequences), default=0)
        self.budget = int(lm.batch_size) * longest
        lengths = [len(tokens) for tokens in self.sequences]
        scored = [length - keep for length, keep in zip(lengths, self.keep, strict=True)]
        self.groups: list[Group] = Planner(lengths, self.shared, scored, lm.cost(longest)).groups() if of else []

    def answers(self) -> Iterator[tuple[int, Likelihood]]:
        """Yield the number of a request and its answer."""
        for group in self.groups:
            first = group.rows[0][0]
            base = self.lm.keep(list(self.sequences[first][: group.base])) if group.base else None
            for batch in self._batches(group):
                yield from self._answer(batch, base)

    def trees(self, group: Group) -> list[Tree]:
        """Return the rows of a group."""
        return [tree(self.sequences[a:b], self.shared[a:b], group.base, self.keep[a:b]) for a, b in group.rows]

    def _batches(self, group: Group) -> Iterator[_Batch]:
        trees = self.trees(group)
        for branches in (True, False):  # rows without branches need no explicit mask
            chosen = [i for i, row in enumerate(trees) if row.branches is branches]
            sizes = [len(trees[i].tokens) for i in chosen]
            for batch in batches(sizes, group.base, self.budget):
                numbers = [chosen[i] for i in batch]
                yield _Batch([trees[i] for i in numbers], [list(range(*group.rows[i])) for i in numbers])

    def _answer(self, batch: _Batch, base: DynamicCache | None) -> Iterator[tuple[int, Likelihood]]:
        asked = [sorted({index for path in row.paths for index in path}) for row in batch.trees]
        ends = [0, *accumulate(map(len, asked))]
        of: list[int] = []  # the request of each span of `where`
        where: list[int] = []  # line of the log-probabilities
        targets: list[int] = []
        for row, indices, start, members in zip(batch.trees, asked, ends, batch.members, strict=False):
            line = {index: start + k for k, index in enumerate(indices)}
            for path, number in zip(row.paths, members, strict=True):
                for i in self.askers[number]:
                    of.append(i)
                    where += [line[index] for index in path[len(path) - len(self.requests[i][2]) :]]
                    targets += self.requests[i][2]
        found = self.lm.log_probabilities(batch, base, asked)
        lines, tokens = (torch.tensor(part, device=found.device) for part in (where, targets))
        values = found[lines, tokens]
        # Greedy decoding takes the first of ties (argmax); that is slow, so it runs only where the target is a maximum.
        ties = values == found.amax(dim=-1)[lines]
        likeliest = ties.clone()
        likeliest[ties] = found[lines[ties]].argmax(dim=-1) == tokens[ties]
        values, greedy = values.cpu(), likeliest.tolist()
        stops = [0, *accumulate(len(self.requests[i][2]) for i in of)]
        for i, (start, stop) in zip(of, pairwise(stops), strict=True):
            yield i, (float(values[start:stop].sum()), all(greedy[start:stop]))
