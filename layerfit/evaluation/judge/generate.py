"""Text generation in which an answer depends on its own prompt and seed, never on the rest of its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

TOP_K = 50
"""Likeliest tokens to sample from: transformers' default when FastChat's published answers were made."""


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue; temperature 0 = greedy."""

    ids: list[int]
    temperature: float = 0.0
    seed: str = ""


@dataclass(frozen=True)
class Continuation:
    """Text and the reason of its end: `stop` (end of text), `length` (limit), `no_room` (no position is left)."""

    text: str
    finish: str


class _Sampler:
    """Samples a token per row by the Gumbel-max trick, with a random generator of the row's own seed.

    `generate` then decodes greedily, so rows of one batch can have different temperatures, including 0.
    """

    def __init__(self, prompts: list[Prompt]) -> None:
        import torch

        self.temperatures = [prompt.temperature for prompt in prompts]
        self.generators = [torch.Generator().manual_seed(_number(prompt.seed)) for prompt in prompts]

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores [rows, vocabulary] in which the sampled token of each row is the largest."""
        import torch

        out = scores.clone()
        for row, (temperature, generator) in enumerate(zip(self.temperatures, self.generators, strict=True)):
            if temperature == 0:
                continue
            best, index = scores[row].float().topk(min(TOP_K, scores.shape[-1]))
            # Minus the log of an exponential variable is Gumbel noise; in float64 on the CPU, alike on every device.
            noise = torch.empty(len(best), dtype=torch.float64).exponential_(generator=generator).log().neg()
            chosen = index[(best.double().cpu() / temperature + noise).argmax()]
            out[row] = -torch.inf
            out[row, chosen] = 0.0
        return out


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.blake2s(seed.encode(), digest_size=7).digest(), "big")


def positions(model: nn.Module) -> int | None:
    """Return a model's number of positions, None if its configuration has none."""
    config: Any = model.config
    return next((n for key in ("max_position_embeddings", "n_positions") if (n := getattr(config, key, None))), None)


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the eos tokens: the tokenizer's, and those of the model's own generation settings."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in [tokenizer.eos_token_id, *listed] if isinstance(token, int)})


def generate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], max_new_tokens: int, batch_size: int
) -> list[Continuation]:
    """Return a continuation of every prompt, in order. The model must be in evaluation mode and on its device.

    A prompt that leaves fewer than `max_new_tokens` positions is continued alone, up to the last position.
    """
    room = positions(model)
    out: dict[int, Continuation] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    fits = [i for i in order if room is None or len(prompts[i].ids) + max_new_tokens <= room]
    batches = [(fits[start : start + batch_size], max_new_tokens) for start in range(0, len(fits), batch_size)]
    batches += [([i], (room or 0) - len(prompts[i].ids)) for i in order if i not in set(fits)]
    if hasattr(
        model, "get_base_model"
    ):  # the base model contains the adapters; PEFT's wrapper would override our settings
        model = model.get_base_model()  # type: ignore[operator]
    ends = end_ids(model, tokenizer)
    for batch, new in batches:
        if new < 1:
            out[batch[0]] = Continuation("", "no_room")
            continue
        for index, ids in zip(batch, _batch(model, tokenizer, [prompts[i] for i in batch], new, ends), strict=True):
            stop = next((n for n, token in enumerate(ids) if token in ends), None)
            text = tokenizer.decode(ids[:stop], skip_special_tokens=True)
            assert isinstance(text, str), "one row is decoded"
            out[index] = Continuation(text.strip(), "length" if stop is None else "stop")
    return [out[i] for i in range(len(prompts))]


def _batch(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], new: int, ends: list[int]
) -> list[list[int]]:
    """Return the new tokens of every prompt."""
    import torch
    from transformers import LogitsProcessorList

    longest, pad = max(len(prompt.ids) for prompt in prompts), tokenizer.pad_token_id
    pad = ends[0] if pad is None else pad
    device = next(model.parameters()).device
    ids = torch.tensor([[pad] * (longest - len(p.ids)) + p.ids for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=device)
    processors: Any = LogitsProcessorList([_Sampler(prompts)])  # type: ignore[list-item]
    with torch.no_grad(), _own_settings(model) as settings:
        settings.max_new_tokens, settings.pad_token_id, settings.eos_token_id = new, pad, ends
        out = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=processors
        )
    return out[:, longest:].tolist()


@contextmanager
def _own_settings(model: nn.Module) -> Iterator[Any]:
    """Yield clean generation settings, and hide the checkpoint's, from which transformers fills unset values."""
    from transformers import GenerationConfig

    kept: Any = getattr(model, "generation_config", None)
    clean = GenerationConfig(do_sample=False, num_beams=1, use_cache=True)
    model.generation_config = GenerationConfig()  # type: ignore[assignment]
    try:
        yield clean
    finally:
        model.generation_config = kept


def weights_digest(model: nn.Module) -> str:
    """Return a hash over some thousand values of every weight: it distinguishes trainings, not single-bit changes."""
    import torch

    digest = hashlib.blake2s(digest_size=8)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // 4096)].float().cpu()
            digest.update(name.encode() + some.numpy().tobytes())
    return digest.hexdigest()
