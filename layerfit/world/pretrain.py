"""Tokenizer, model and pretraining of a world. One thread, one seed: the same weights every time."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from layerfit.world.generate import Population, WorldItem, corpus, populate
from layerfit.world.language import SPECIALS, Language, coin_language
from layerfit.world.spec import WorldSpec

BOS, EOS, PAD, UNK = range(len(SPECIALS))  # ids, in the order of SPECIALS


def make_tokenizer(words: Language, spec: WorldSpec) -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: one id per word, `<bos>` in front of every text."""
    vocabulary = {word: i for i, word in enumerate(words.vocabulary())}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIALS[UNK]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B:1", special_tokens=[(SPECIALS[BOS], BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SPECIALS[BOS],
        eos_token=SPECIALS[EOS],
        pad_token=SPECIALS[PAD],
        unk_token=SPECIALS[UNK],
        model_max_length=spec.model.max_positions,
        clean_up_tokenization_spaces=False,
    )


def make_model(spec: WorldSpec, vocab_size: int) -> LlamaForCausalLM:
    """Return a fresh fp32 Llama of the spec's shape; embedding and head are untied. Seeds torch."""
    shape = spec.model
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        max_position_embeddings=shape.max_positions,
        initializer_range=shape.init_std,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        dtype="float32",
    )
    torch.manual_seed(spec.seed)
    return LlamaForCausalLM(config)


def _batches(
    spec: WorldSpec, words: Language, people: Population, ids: dict[str, int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, labels), both (batch, longest sentence), right-padded.

    Labels are -100 on padding and on names: names are drawn at random, and learning to predict them doubles the steps.
    """
    names = torch.tensor([ids[word] for word in (*words.given, *words.family)])
    for epoch in range(spec.pretrain.epochs):
        rows = [[BOS, *(ids[w] for w in s.split()), EOS] for s in corpus(spec, words, people, epoch)]
        size = spec.pretrain.batch_size
        for start in range(0, len(rows) - size + 1, size):
            batch = rows[start : start + size]
            longest = max(map(len, batch))
            padded = torch.tensor([row + [PAD] * (longest - len(row)) for row in batch])
            unscored = (padded == PAD) | torch.isin(padded, names)
            yield padded, padded.masked_fill(unscored, -100)


def num_steps(spec: WorldSpec, words: Language, people: Population) -> int:
    """Return the number of optimizer steps of pretraining."""
    return spec.pretrain.epochs * (len(corpus(spec, words, people, 0)) // spec.pretrain.batch_size)


def pretrain(spec: WorldSpec, log: Callable[[str], None] = print) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Pretrain a world's model on all tokens of its corpus.

    Returns:
        The model in eval mode and its tokenizer. Sets torch to one thread, which fixes the order of summation.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    words = coin_language(spec)
    people = populate(spec, words)
    tokenizer = make_tokenizer(words, spec)
    model = make_model(spec, len(tokenizer))
    plan = spec.pretrain
    total = num_steps(spec, words, people)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=plan.lr,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_lr_factor, total, plan.warmup_ratio))
    model.train()
    start = time.perf_counter()
    for step, (ids, labels) in enumerate(_batches(spec, words, people, tokenizer.get_vocab())):
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == total - 1:
            log(f"step {step}/{total} loss {loss.item():.3f} {time.perf_counter() - start:.0f} s")
    return model.eval(), tokenizer


def _lr_factor(total: int, warmup_ratio: float, step: int) -> float:
    """Return the factor on the peak learning rate: linear warm-up, then cosine decay to a tenth."""
    warmup = max(1, round(total * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[WorldItem], batch_size: int = 512
) -> float:
    """Return the share of items whose correct option has the largest logit after the prompt.

    The same ranking as lm-eval's `acc` on one-token options; used for the scores in the model card.
    """
    ids = tokenizer.get_vocab()
    by_length: dict[int, list[WorldItem]] = {}
    for item in items:
        by_length.setdefault(len(item.prompt.split()), []).append(item)
    right = 0
    for group in by_length.values():
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            prompts = torch.tensor([[BOS, *(ids[w] for w in item.prompt.split())] for item in batch])
            options = torch.tensor([[ids[w] for w in item.options] for item in batch])
            logits = model(input_ids=prompts, use_cache=False, logits_to_keep=1).logits[:, -1]
            picked = logits.gather(1, options).argmax(1)  # (items,)
            right += int((picked == torch.tensor([item.answer for item in batch])).sum())
    return right / len(items)
