"""Where a decoder keeps its blocks, embedding, norms and head: names, no weights."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from layerfit.errors import UserError

EMBEDDING, NORM, HEAD = "embedding", "norm", "head"
"""The parts of a decoder outside its blocks: token embedding, final norm, language-model head."""

_WRAPPERS = ("module.", "base_model.model.")


def layer_units(layers: Any) -> frozenset[str]:
    """Return the unit names of block indices."""
    return frozenset(f"layers.{i}" for i in layers)


def block_of(unit: str) -> str:
    """Return the block that a unit is in: `layers.3` for `layers.3.mlp.up_proj`."""
    return ".".join(unit.split(".")[:2])


def kind_of(unit: str) -> str:
    """Return the kind of a linear module, the last part of its name: `up_proj` for `layers.3.mlp.up_proj`."""
    return unit.rpartition(".")[2]


@dataclass(frozen=True)
class Shape:
    """What is known of a run before its model is loaded: enough for a method to check its own parameters."""

    num_layers: int
    num_steps: int
    linear: tuple[str, ...]
    """Linear modules inside one block, relative to it: `self_attn.q_proj`, ..."""
    smallest_side: int | None = None
    """Rows or columns, whichever is fewer, of the smallest of them."""
    tied: bool = False
    """Whether embedding and head are one matrix."""

    def blocks(self) -> list[str]:
        """Return the unit names of all blocks, from the lowest."""
        return [f"layers.{i}" for i in range(self.num_layers)]

    def modules(self, targets: Collection[str] = ()) -> list[str]:
        """Return the unit names of all linear modules, layer by layer; with `targets`, of those kinds alone."""
        names = [name for name in self.linear if not targets or kind_of(name) in targets]
        return [f"layers.{i}.{name}" for i in range(self.num_layers) for name in names]

    def check_targets(self, targets: Collection[str]) -> None:
        """Raise UserError if `method.targets` names a kind of linear module that this model does not have."""
        known = sorted({kind_of(name) for name in self.linear})
        for target in targets:
            if target not in known:
                raise UserError(f"method.targets names {target!r}; this model's linear modules are: {', '.join(known)}")


@dataclass(frozen=True)
class Anatomy:
    """Module paths of one architecture (from `conf/model/*.yaml`, or read from a `config.json`).

    blocks: path of the list of decoder blocks, `model.layers`. linear: linear modules inside a block, relative to it.
    beside_embedding: modules that make the input of the first block together with the embedding (BLOOM's norm of it,
        OPT's learned positions). They belong to the embedding part.
    head: equal to `embedding` where the two are tied. The matrix is then of both parts: naming either trains it.
    norms: norm modules beside the final one: of a block, relative to it, or one of `beside_embedding`. None: not known.
    max_positions: tokens of the longest row.
    """

    num_layers: int
    blocks: str
    embedding: str
    norm: str
    head: str
    linear: tuple[str, ...]
    smallest_side: int | None = None
    beside_embedding: tuple[str, ...] = ()
    norms: tuple[str, ...] | None = None
    max_positions: int | None = None

    def shape(self, num_steps: int) -> Shape:
        """Return what methods check their parameters against."""
        return Shape(
            num_layers=self.num_layers,
            num_steps=num_steps,
            linear=self.linear,
            smallest_side=self.smallest_side,
            tied=self.head == self.embedding,
        )

    def modules(self, targets: Collection[str] = ()) -> list[str]:
        """Return the units of linear modules, as `Shape.modules`."""
        return self.shape(num_steps=0).modules(targets)

    def module_path(self, unit: str) -> str:
        """Return the module path of a unit, `layers.3.mlp` -> `model.layers.3.mlp`, or that of EMBEDDING or HEAD."""
        if unit in (EMBEDDING, HEAD):
            return self.embedding if unit == EMBEDDING else self.head
        assert unit.startswith("layers."), unit
        return f"{self.blocks}.{unit.removeprefix('layers.')}"

    def canonical(self, name: str) -> str:
        """Return a module or parameter name without the prefixes that wrappers (PEFT, DeepSpeed) put before it."""
        for prefix in _WRAPPERS:
            name = name.removeprefix(prefix)
        return name

    def unit(self, name: str) -> str | None:
        """Return the unit path of a module or parameter name, None outside the blocks.

        `base_model.model.model.layers.3.self_attn.q_proj` -> `layers.3.self_attn.q_proj`.
        """
        name = self.canonical(name)
        return f"layers.{name.removeprefix(self.blocks + '.')}" if name.startswith(self.blocks + ".") else None

    def parts(self, name: str) -> frozenset[str]:
        """Return which of EMBEDDING, NORM and HEAD a parameter belongs to: both of a tied pair, none in the blocks."""
        name = self.canonical(name)
        paths = [(EMBEDDING, self.embedding), (NORM, self.norm), (HEAD, self.head)]
        paths += [(EMBEDDING, path) for path in self.beside_embedding]
        return frozenset(part for part, path in paths if name.startswith(path + "."))

    def is_norm(self, name: str) -> bool:
        """Return whether a parameter is a norm's, in a block or outside of all.

        Raises:
            UserError: if the norms of this architecture are not known.
        """
        if self.norms is None:
            raise UserError(
                "model.norms is null: the norms of this architecture are not known; list its norm modules, those of a "
                "block relative to it"
            )
        unit = self.unit(name)
        within = self.canonical(name) if unit is None else unit.removeprefix(f"{block_of(unit)}.")
        module = within.rpartition(".")[0]
        return module in self.norms or (unit is None and module == self.norm)

    def is_bias(self, name: str) -> bool:
        """Return whether a parameter is a bias, of a linear module or of a norm."""
        return kind_of(name) == "bias"


_TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
_ATTENTION = tuple(f"self_attn.{side}_proj" for side in ("q", "k", "v", "o"))
_LLAMA = {
    "blocks": "model.layers",
    "embedding": "model.embed_tokens",
    "beside_embedding": (),
    "norm": "model.norm",
    "head": "lm_head",
    "linear": (*_ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "norms": _TWO_NORMS,
    "tied": False,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | {"norms": (*_TWO_NORMS, "self_attn.q_norm", "self_attn.k_norm")},
    "gemma": _LLAMA | {"tied": True},
    "gptj": {
        "blocks": "transformer.h",
        "embedding": "transformer.wte",
        "beside_embedding": (),
        "norm": "transformer.ln_f",
        "head": "lm_head",
        "linear": ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out"),
        "norms": ("ln_1",),
        "tied": False,
    },
    "bloom": {
        "blocks": "transformer.h",
        "embedding": "transformer.word_embeddings",
        "beside_embedding": ("transformer.word_embeddings_layernorm",),
        "norm": "transformer.ln_f",
        "head": "lm_head",
        "linear": (
            "self_attention.query_key_value",
            "self_attention.dense",
            "mlp.dense_h_to_4h",
            "mlp.dense_4h_to_h",
        ),
        "norms": (*_TWO_NORMS, "transformer.word_embeddings_layernorm"),
        "tied": True,
    },
    "opt": {
        "blocks": "model.decoder.layers",
        "embedding": "model.decoder.embed_tokens",
        "beside_embedding": ("model.decoder.embed_positions",),
        "norm": "model.decoder.final_layer_norm",
        "head": "lm_head",
        "linear": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"),
        "norms": ("self_attn_layer_norm", "final_layer_norm"),
        "tied": True,
    },
}
"""By `model_type` of a config.json. tied: whether head and embedding are one matrix where the file does not say."""

LAYERS = ("num_hidden_layers", "n_layer")
WIDTH = ("hidden_size", "n_embed", "n_embd")
HEADS = ("num_attention_heads", "n_head")
INNER = ("intermediate_size", "ffn_dim", "n_inner")
POSITIONS = ("max_position_embeddings", "n_positions", "seq_length")
"""The names in use in a config.json."""
_SIZES = dict.fromkeys((*LAYERS, *HEADS, "num_key_value_heads"), 10_000)
_SIZES |= dict.fromkeys((*WIDTH, *INNER, *POSITIONS, "head_dim", "vocab_size", "word_embed_proj_dim"), 2**31 - 1)
"""The largest value of each size: beyond any machine, but below what would take for ever to count up to."""


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless a `config.json` says its sizes as positive whole numbers that fit each other.

    where: the file, for the message. A size that it does not say, or says as null, is not looked at.
    """
    kind = config.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise UserError(f"{where}: model_type={kind!r:.80} is not a string; copy the model again")
    for key, largest in _SIZES.items():
        value = config.get(key)
        if value is not None and (type(value) is not int or not 1 <= value <= largest):
            raise UserError(f"{where}: {key}={value!r:.80} is not a whole number from 1 to {largest}; correct the file")
    tied = config.get("tie_word_embeddings")
    if tied is not None and not isinstance(tied, bool):
        raise UserError(f"{where}: tie_word_embeddings={tied!r:.80} is not true or false; correct the file")
    width, heads, shared = first(config, WIDTH), first(config, HEADS), config.get("num_key_value_heads")
    if heads is not None and shared is not None and heads % shared:
        raise UserError(
            f"{where}: num_key_value_heads={shared} does not divide the {heads} attention heads; correct the file"
        )
    if width is not None and heads is not None and config.get("head_dim") is None and width % heads:
        raise UserError(f"{where}: its {heads} attention heads do not divide the width {width}; correct the file")


def first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """Return the first of `keys` that a config.json says."""
    return next((config[key] for key in keys if config.get(key) is not None), None)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether a `config.json` makes head and embedding one matrix."""
    known = ARCHITECTURES.get(config.get("model_type", ""), _LLAMA)
    return bool(config.get("tie_word_embeddings", known["tied"]))


def read_parts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model's `config.json` says of it, by the names of `ModelConfig`'s fields.

    Sizes under any of the names in use; the paths only where `model_type` is one of ARCHITECTURES. What it does not
    say is left out.
    """
    layers, positions = first(config, LAYERS), first(config, POSITIONS)
    found: dict[str, Any] = {"num_layers": layers, "max_positions": positions}
    if (parts := ARCHITECTURES.get(config.get("model_type", ""))) is not None:
        found |= {key: value for key, value in parts.items() if key != "tied"}
        found["head"] = parts["embedding"] if is_tied(config) else parts["head"]
        found["smallest_side"] = _smallest_side(config)
    return {key: value for key, value in found.items() if value is not None}


def _smallest_side(config: Mapping[str, Any]) -> int | None:
    """Return the shorter side of the smallest linear module of a block."""
    width, heads = first(config, WIDTH), first(config, HEADS)
    if width is None or heads is None:
        return None
    size = config.get("head_dim") or width // heads
    shared = config.get("num_key_value_heads") or heads
    return min(width, shared * size, first(config, INNER) or 4 * width)


def num_parameters(config: Mapping[str, Any]) -> int | None:
    """Return about how many parameters a decoder of this `config.json` has; None if it does not say its sizes."""
    width, layers, vocabulary = first(config, WIDTH), first(config, LAYERS), config.get("vocab_size")
    if width is None or layers is None or vocabulary is None:
        return None
    inner, heads = first(config, INNER) or 4 * width, first(config, HEADS)
    shared = config["num_key_value_heads"] / heads if heads and "num_key_value_heads" in config else 1
    attention, dense = (2 + 2 * shared) * width**2, (3 if "intermediate_size" in config else 2) * width * inner
    return int(layers * (attention + dense) + (1 if is_tied(config) else 2) * vocabulary * width)


_ROWS_COLUMNS = {
    "q_proj": ("heads", "width"),
    "k_proj": ("shared", "width"),
    "v_proj": ("shared", "width"),
    "query_key_value": ("fused", "width"),
    **dict.fromkeys(("o_proj", "out_proj", "dense"), ("width", "heads")),
    **dict.fromkeys(("gate_proj", "up_proj", "fc_in", "fc1", "dense_h_to_4h"), ("inner", "width")),
    **dict.fromkeys(("down_proj", "fc_out", "fc2", "dense_4h_to_h"), ("width", "inner")),
}
"""The weight of each kind of linear module, [out, in]."""


_SPLIT_WIDTH = ("llama", "mistral", "qwen2", "gptj", "bloom", "opt")
_OWN_KEYS = ("llama", "gptj", "bloom", "opt")
"""Where a head has its share of the width, and where each head has keys of its own, if the file does not say."""


def _sizes(config: Mapping[str, Any], kind: str) -> dict[str, int | None]:
    """Return the sizes of _ROWS_COLUMNS; None where the file leaves them to the default of its architecture."""
    width, heads, inner = first(config, WIDTH), first(config, HEADS), first(config, INNER)
    head = config.get("head_dim") or ((width or 0) // (heads or 1) if kind in _SPLIT_WIDTH else None)
    shared = config.get("num_key_value_heads") or (heads if kind in _OWN_KEYS else None)
    if kind == "bloom" or (kind == "gptj" and inner is None):
        inner = width and 4 * width
    return {
        "width": width,
        "heads": heads and head and heads * head,
        "shared": shared and head and shared * head,
        "fused": width and 3 * width,
        "inner": inner,
        "vocabulary": config.get("vocab_size"),
        "embedding": config.get("word_embed_proj_dim") or width,
    }


def expected_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of weights that follow from a `config.json`: the embedding, and every linear module.

    Nothing for an architecture that is not known, nor where a size is left to the architecture's default.
    """
    kind = config.get("model_type", "")
    if (parts := ARCHITECTURES.get(kind)) is None:
        return
    sizes = _sizes(config, kind)
    places = {parts["embedding"]: ("vocabulary", "embedding")}
    for index in range(first(config, LAYERS) or 0):
        named = ((name, _ROWS_COLUMNS.get(kind_of(name))) for name in parts["linear"])
        places |= {f"{parts['blocks']}.{index}.{name}": shape for name, shape in named if shape is not None}
    for path, (rows, columns) in places.items():
        if (shape := (sizes[rows], sizes[columns])) and all(shape):
            yield f"{path}.weight", shape  # type: ignore[misc]
