"""Logits of trees of tokens behind a kept prefix (the base), in one forward pass, at requested positions only.

Tensors: R rows, T tokens of the longest row, B tokens of the base, N requested positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from layerfit.evaluation.lm_eval.prefix_tree import Tree, tree

ATTENTION = ("sdpa", "eager")
"""Implementations that accept an arbitrary [T, T] mask."""
ROPE = {None, "default", "linear", "llama3", "yarn"}
"""Rotary embeddings whose angles depend on the position alone, not on how long the longest row is."""
SHAPE = ("num_attention_heads", "num_hidden_layers", "hidden_size", "vocab_size")
"""Configuration fields that the cost model reads."""
LAYERS = {"full_attention", "sliding_attention"}
_PROBE = [(1, 5, 2, 9, 4, 4, 3), (1, 5, 2, 9, 4, 7, 8, 6, 2), (1, 5, 2, 3, 3)]


class KeptLayer(DynamicLayer):
    """Keys and values [1, heads, B, width] of a base that every row of a batch shares; the rows' own are not stored."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the base's and the rows' keys and values, [R, heads, B + T, width]."""
        assert self.keys is not None, "the base was computed"
        assert self.values is not None, "the base was computed"
        rows = len(key_states)
        keys, values = self.keys.expand(rows, -1, -1, -1), self.values.expand(rows, -1, -1, -1)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def kept(model: nn.Module, head: nn.Module, tokens: list[int]) -> DynamicCache:
    """Return the keys and values of a base."""
    ids = torch.tensor([tokens], device=_device(model))
    cache = DynamicCache()
    with _only(head, torch.zeros(1, dtype=torch.long, device=ids.device)):
        positions = torch.arange(len(tokens), device=ids.device).unsqueeze(0)
        model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    base = DynamicCache()
    base.layers = [KeptLayer(layer.keys, layer.values) for layer in layers]
    return base


def logits(
    model: nn.Module, head: nn.Module, trees: list[Tree], base: DynamicCache | None, asked: list[list[int]]
) -> torch.Tensor:
    """Return the logits [N, V] at the `asked` positions of each row, row by row."""
    width = max(len(row.tokens) for row in trees)
    device = _device(model)
    filled = [_filled(row, width) for row in trees]
    ids, positions, exits = (torch.tensor(part, device=device) for part in zip(*filled, strict=True))
    start = base.get_seq_length() if base is not None else 0
    indices = [i * width + index for i, row in enumerate(asked) for index in row]
    extra: dict[str, Any] = {} if base is None else {"past_key_values": base}
    if any(row.branches for row in trees):
        extra["attention_mask"] = _mask(model, exits, start)
    elif base is not None:
        extra["attention_mask"] = _mask(model, torch.full_like(exits[:1], width), start)
    with _only(head, torch.tensor(indices, device=device)):
        found: torch.Tensor = model(input_ids=ids, position_ids=positions, use_cache=base is not None, **extra).logits
    assert found.shape[:2] == (1, len(indices)), "the head was applied to the chosen positions only"
    return found[0]


def _filled(row: Tree, width: int) -> tuple[list[int], list[int], list[int]]:
    """Return tokens, positions and exits, padded on the right with tokens that attend to themselves."""
    empty = width - len(row.tokens)
    # Without branches the mask is plainly causal; padding comes last, so no token attends to it.
    exits = row.exits + list(range(len(row.tokens) + 1, width + 1)) if row.branches else [width] * width
    return row.tokens + [0] * empty, row.positions + [row.positions[-1]] * empty, exits


def _mask(model: nn.Module, exits: torch.Tensor, base: int) -> torch.Tensor:
    """Return the mask [R, 1, T, B + T]: every token attends to the base, its ancestors and itself."""
    index = torch.arange(exits.shape[1], device=exits.device)
    sees = (index[None, :] <= index[:, None]) & (index[:, None] < exits[:, None, :])
    sees = torch.cat([sees.new_ones(*sees.shape[:2], base), sees], dim=-1).unsqueeze(1)
    if attention_of(model) == "sdpa":
        return sees
    dtype = next(model.parameters()).dtype
    return torch.zeros_like(sees, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)


@contextmanager
def _only(head: nn.Module, indices: torch.Tensor) -> Iterator[None]:
    """Apply the head only to the hidden states at some indices of the flattened batch, as a batch of one row."""

    def select(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].flatten(0, 1)[indices].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def attention_of(model: nn.Module) -> str | None:
    """Return the attention implementation of a model."""
    name: str | None = getattr(plain(model).config, "_attn_implementation", None)
    return name


def plain(model: nn.Module) -> Any:
    """Return the model inside PEFT's wrapper, or the model itself."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


def head_of(model: nn.Module) -> nn.Module | None:
    """Return the output embedding, which turns hidden states into logits."""
    head: nn.Module | None = plain(model).get_output_embeddings()
    return head


def window_of(model: nn.Module) -> int | None:
    """Return the window of sliding-window attention in tokens, None = full attention. Shorter inputs are unaffected."""
    config = plain(model).config.get_text_config()
    if not getattr(config, "use_sliding_window", True):
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window


def unsupported(model: nn.Module) -> str | None:
    """Return the reason why sharing prefixes may not be exact for a model, None if it is.

    First its forward and configuration are checked, then a small tree behind a base is compared with plain passes.
    """
    config = plain(model).config.get_text_config()
    takes = inspect.signature(plain(model).forward).parameters
    missing = [name for name in ("position_ids", "past_key_values", "attention_mask", "use_cache") if name not in takes]
    ropes = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {rope.get("rope_type") for rope in [ropes, *ropes.values()] if isinstance(rope, dict)}
    unnamed = [name for name in SHAPE if not hasattr(config, name)]
    tuned = getattr(model, "active_peft_config", None)
    layers = set(getattr(config, "layer_types", None) or ()) - LAYERS
    head = head_of(model)
    reasons = [
        (plain(model).config.is_encoder_decoder, "it is an encoder and a decoder"),
        (missing, f"its forward takes no {', '.join(missing)}"),
        (unnamed, f"its configuration has no {', '.join(unnamed)}"),
        (attention_of(model) not in ATTENTION, f"its attention is {attention_of(model)}, not one of {ATTENTION}"),
        (kinds - ROPE, f"its rotary embedding ({kinds}) depends on the batch"),
        (layers, f"its layers are {sorted(layers)}"),
        (getattr(tuned, "is_prompt_learning", False), "its adapter adds virtual tokens"),
        (head is None, "it has no output embedding"),
    ]
    reason = next((text for wrong, text in reasons if wrong), None)
    return reason if reason is not None or head is None else _probe(model, head)


@torch.no_grad()
def _probe(model: nn.Module, head: nn.Module) -> str | None:
    """Return the difference between a tree behind a base and plain passes as a message, None if it is only rounding."""
    vocabulary = plain(model).get_input_embeddings().weight.shape[0]
    probe = [tuple(token % vocabulary for token in tokens) for tokens in _PROBE]
    trees = [tree(probe[:2], [0, 5], 3, [4, 6]), tree(probe[2:], [0], 3, [2])]
    asked = [[index for path in row.paths for index in path] for row in trees]
    try:
        mine = logits(model, head, trees, kept(model, head, list(probe[0][:3])), asked).float()
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, IndexError) as error:
        return f"it cannot: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    rows = [torch.tensor([tokens], device=_device(model)) for tokens in probe]
    theirs = [model(input_ids=row, use_cache=False).logits[0, 3:] for row in rows]
    reference = torch.cat(theirs).float()
    spread = (reference.max() - reference.min()).item()
    far = (mine - reference).abs().max().item()
    exact = next(model.parameters()).dtype in (torch.float32, torch.float64)
    return None if far <= (1e-4 if exact else 0.1) * spread else f"its logits come out {far:.2g} apart"
