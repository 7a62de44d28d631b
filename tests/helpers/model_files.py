"""Model folders without torch: a config.json, a tokenizer of words, and weights as a header and zeros."""

import json
import math
import shutil
import struct
from pathlib import Path

from layerfit.anatomy import expected_shapes
from layerfit.models.hub import EMBEDDED

LLAMA = {
    "model_type": "llama",
    "vocab_size": 640,  # the tokenizer of the embedded world has 620 tokens
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
Shapes = dict[str, tuple[int, ...]]


def safetensors(shapes: Shapes) -> bytes:
    """A file of zeros in fp32."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def llama_shapes(config: dict) -> Shapes:
    """The tensors of a Llama: every linear module, the norms, embedding and head."""
    width, rows = config["hidden_size"], config["vocab_size"]
    shapes = dict(expected_shapes(config)) | {"lm_head.weight": (rows, width), "model.norm.weight": (width,)}
    norms = ("input_layernorm", "post_attention_layernorm")
    blocks = range(config["num_hidden_layers"])
    return shapes | {f"model.layers.{i}.{norm}.weight": (width,) for i in blocks for norm in norms}


def write_llama(folder: Path, **changes) -> Path:
    """A whole model's folder; its weights are all zero."""
    config = LLAMA | changes
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EMBEDDED / "models/layerfit/nano" / file, folder / file)
    (folder / "model.safetensors").write_bytes(safetensors(llama_shapes(config)))
    return folder
