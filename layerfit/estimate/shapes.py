"""A model's parameters by name and shape, from its `config.json` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from layerfit.anatomy import HEADS, INNER, LAYERS, POSITIONS, WIDTH, Anatomy, first, is_tied

KINDS = ("llama", "mistral", "gptj", "bloom", "opt")
"""Architectures (`model_type`) whose parameters are known here."""


@dataclass(frozen=True)
class Sizes:
    """Of one decoder. inner: between the ends of an MLP. kv_heads: of keys and values. positions: learned ones."""

    kind: str
    num_layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    vocabulary: int
    positions: int
    tied: bool
    attention_bias: bool
    mlp_bias: bool

    @property
    def llama(self) -> bool:
        """Whether blocks are Llama's: RMSNorm, rotary positions, a gated MLP."""
        return self.kind in ("llama", "mistral")


def read_sizes(config: Mapping[str, Any]) -> Sizes | str:
    """Return the sizes that a `config.json` says, or why they are not known."""
    kind = config.get("model_type", "")
    if kind not in KINDS:
        return f"model_type={kind or 'null'} is not known here (known: {', '.join(KINDS)})"
    width, layers, heads = first(config, WIDTH), first(config, LAYERS), first(config, HEADS)
    vocabulary, positions = config.get("vocab_size"), first(config, POSITIONS)
    if width is None or layers is None or heads is None or vocabulary is None:
        return "its config.json does not say width, layers, heads and vocabulary"
    if config.get("word_embed_proj_dim", width) != width:
        return "its embedding has another width than its blocks"
    if kind == "opt" and positions is None:
        return "its config.json does not say how many positions it learns"
    return Sizes(
        kind=kind,
        num_layers=layers,
        width=width,
        inner=first(config, INNER) or 4 * width,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or width // heads,
        rotary_dim=config.get("rotary_dim") or 0,
        vocabulary=vocabulary,
        positions=(positions or 0) if kind == "opt" else 0,
        tied=is_tied(config),
        attention_bias=bool(config.get("attention_bias")),
        mlp_bias=bool(config.get("mlp_bias")),
    )


@lru_cache(maxsize=16)
def linear_shapes(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Return [out, in] of the linear modules of a block."""
    width, inner = sizes.width, sizes.inner
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    if sizes.llama:
        ends = {"q": (queries, width), "k": (keys, width), "v": (keys, width), "o": (width, queries)}
        attention = {f"self_attn.{side}_proj": shape for side, shape in ends.items()}
        mlp = {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    elif sizes.kind == "gptj":
        attention = {f"attn.{side}_proj": (width, width) for side in ("q", "k", "v", "out")}
        mlp = {"mlp.fc_in": (inner, width), "mlp.fc_out": (width, inner)}
    elif sizes.kind == "bloom":
        attention = {"self_attention.query_key_value": (3 * width, width), "self_attention.dense": (width, width)}
        mlp = {"mlp.dense_h_to_4h": (inner, width), "mlp.dense_4h_to_h": (width, inner)}
    else:
        attention = {f"self_attn.{side}_proj": (width, width) for side in ("q", "k", "v", "out")}
        mlp = {"fc1": (inner, width), "fc2": (width, inner)}
    return attention | mlp


NORMS: dict[str, tuple[str, ...]] = {
    "llama": ("input_layernorm", "post_attention_layernorm"),
    "mistral": ("input_layernorm", "post_attention_layernorm"),
    "gptj": ("ln_1",),
    "bloom": ("input_layernorm", "post_attention_layernorm"),
    "opt": ("self_attn_layer_norm", "final_layer_norm"),
}
"""The norms of a block: before attention, and before the MLP where it has one of its own."""


def _has_bias(sizes: Sizes, module: str) -> bool:
    if sizes.llama:
        return sizes.attention_bias if module.startswith("self_attn.") else sizes.mlp_bias
    return not (sizes.kind == "gptj" and module.startswith("attn."))


def block_parameters(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return the parameters of one block, names relative to it."""
    found: dict[str, tuple[int, ...]] = {}
    for module, shape in linear_shapes(sizes).items():
        found[f"{module}.weight"] = shape
        if _has_bias(sizes, module):
            found[f"{module}.bias"] = shape[:1]
    for norm in NORMS[sizes.kind]:
        found |= _norm(norm, sizes)
    return found


def _norm(path: str, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{path}.weight": (sizes.width,)}
    return weight if sizes.llama else weight | {f"{path}.bias": (sizes.width,)}


def parameters(sizes: Sizes, anatomy: Anatomy) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of the pretrained model, by name; a tied head is no parameter of its own."""
    matrix = (sizes.vocabulary, sizes.width)
    found: dict[str, tuple[int, ...]] = {f"{anatomy.embedding}.weight": matrix}
    for path in anatomy.beside_embedding:  # BLOOM's norm, OPT's positions, of which two are kept free
        positions = {f"{path}.weight": (sizes.positions + 2, sizes.width)}
        found |= positions if sizes.kind == "opt" else _norm(path, sizes)
    block = block_parameters(sizes)
    for index in range(sizes.num_layers):
        found |= {f"{anatomy.blocks}.{index}.{name}": shape for name, shape in block.items()}
    found |= _norm(anatomy.norm, sizes)
    if not sizes.tied:
        found[f"{anatomy.head}.weight"] = matrix
        if sizes.kind == "gptj":
            found[f"{anatomy.head}.bias"] = (sizes.vocabulary,)
    return found
