"""Tiny models of every architecture in conf/model: folders of a config.json and a tokenizer, weights at random."""

import json
import shutil
from pathlib import Path

from layerfit.anatomy import EMBEDDING, HEAD, NORM
from layerfit.config.schema import RunConfig
from layerfit.models.hub import EMBEDDED
from tests.helpers.tiny import LAYERS, composed

VOCAB, WIDTH, POSITIONS = 640, 16, 64  # the tokenizer of the embedded world has 620 tokens
LLAMA = {"vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": LAYERS}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": POSITIONS, "head_dim": 4}
TINY = {
    "llama3_8b": LLAMA | {"model_type": "llama"},
    "gptj_6b": {
        "model_type": "gptj", "vocab_size": VOCAB, "n_positions": POSITIONS, "n_embd": WIDTH, "n_layer": LAYERS,
        "n_head": 2, "rotary_dim": 4,
    },
    "bloomz_7b": {
        "model_type": "bloom", "vocab_size": VOCAB, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 2,
        "seq_length": POSITIONS,
    },
    "opt_1_3b": {
        "model_type": "opt", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "ffn_dim": 32,
        "num_attention_heads": 2, "max_position_embeddings": POSITIONS, "word_embed_proj_dim": WIDTH,
    },
}  # fmt: skip
"""A config.json of each architecture, with the field names of the published one."""
BLOCK = {
    "llama3_8b": r"model\.layers\.(\d+)\.",
    "gptj_6b": r"transformer\.h\.(\d+)\.",
    "bloomz_7b": r"transformer\.h\.(\d+)\.",
    "opt_1_3b": r"model\.decoder\.layers\.(\d+)\.",
}
OUTSIDE = {
    "llama3_8b": {EMBEDDING: ["model.embed_tokens.weight"], NORM: ["model.norm.weight"], HEAD: ["lm_head.weight"]},
    "gptj_6b": {
        EMBEDDING: ["transformer.wte.weight"],
        NORM: ["transformer.ln_f.weight", "transformer.ln_f.bias"],
        HEAD: ["lm_head.weight", "lm_head.bias"],
    },
    "bloomz_7b": {
        EMBEDDING: [
            "transformer.word_embeddings.weight",
            "transformer.word_embeddings_layernorm.weight",
            "transformer.word_embeddings_layernorm.bias",
        ],
        NORM: ["transformer.ln_f.weight", "transformer.ln_f.bias"],
    },
    "opt_1_3b": {
        EMBEDDING: ["model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"],
        NORM: ["model.decoder.final_layer_norm.weight", "model.decoder.final_layer_norm.bias"],
    },
}


def write_model(folder: Path, config: dict) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "models/layerfit/nano" / file, folder)
    return folder


def run_of(folders, model: str, *overrides: str) -> RunConfig:
    tiny = [f"model={model}", f"model.path={folders / model}", "model.weights=random", "model.revision=null"]
    if model != "hf":
        tiny += [f"model.max_positions={POSITIONS}", "model.smallest_side=null"]
    return composed(*tiny, *overrides)
