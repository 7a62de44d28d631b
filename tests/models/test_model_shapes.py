"""What conf/model says of the papers' models: their real shapes, without their memory."""

import json
import re

import pytest
from torch import nn

from layerfit import config
from layerfit.anatomy import expected_shapes, num_parameters, read_parts
from layerfit.config.schema import HubConfig
from layerfit.launch.preflight import check_model
from layerfit.models.hub import load_model
from tests.helpers.tiny import composed
from tests.helpers.tiny_models import write_model

HUB = HubConfig()
LLAMA_7B = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
LLAMA_7B |= {"num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 2048}
GROUPED = {"intermediate_size": 14336, "num_key_value_heads": 8}
PUBLISHED = {
    "llama_7b": (LLAMA_7B, 6_738_415_616),
    "llama_13b": (
        LLAMA_7B
        | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
        13_015_864_320,
    ),
    "llama2_7b": (LLAMA_7B | {"max_position_embeddings": 4096}, 6_738_415_616),
    "llama3_8b": (LLAMA_7B | GROUPED | {"vocab_size": 128256, "max_position_embeddings": 8192}, 8_030_261_248),
    "mistral_7b": (LLAMA_7B | GROUPED | {"model_type": "mistral", "max_position_embeddings": 32768}, 7_241_732_096),
    "tinyllama": (
        LLAMA_7B | {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_key_value_heads": 4},
        1_100_048_384,
    ),
    "gptj_6b": (
        {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048, "rotary_dim": 64}
        | {"vocab_size": 50400, "tie_word_embeddings": False},
        6_050_882_784,
    ),
    "bloomz_7b": (
        {"model_type": "bloom", "n_embed": 4096, "n_layer": 30, "num_attention_heads": 32, "vocab_size": 250880},
        7_069_016_064,
    ),
    "opt_1_3b": (
        {"model_type": "opt", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "ffn_dim": 8192}
        | {"vocab_size": 50272, "max_position_embeddings": 2048, "word_embed_proj_dim": 2048},
        1_315_758_080,
    ),
}
"""Fields of the published config.json, and the published number of parameters (of the weight files' own index)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_real_shapes_are_the_published_ones(tmp_path, name):
    """Random weights of the real shapes, on torch's meta device: everything but the memory."""
    shape, number = PUBLISHED[name]
    folder = write_model(tmp_path / name, shape)
    layers = f"model.num_layers={composed_layers(name)}"
    run = composed(f"model={name}", f"model.path={folder}", "model.weights=random", layers)
    check_model(run.model, HUB, run.model.anatomy())
    module = load_model(run.model, HUB, "bf16", device="meta")
    assert sum(p.numel() for p in module.parameters()) == number
    assert num_parameters(shape) == pytest.approx(number, rel=0.01)
    block = module.get_submodule(run.model.blocks)[0]
    linear = {path: m for path, m in block.named_modules() if isinstance(m, nn.Linear)}
    assert set(run.model.linear) == set(linear)
    assert run.model.smallest_side == min(min(m.weight.shape) for m in linear.values())
    found = read_parts(json.loads((folder / "config.json").read_text()))
    assert found["smallest_side"] == run.model.smallest_side
    # what the header of a weight file is compared with
    expected, own = dict(expected_shapes(shape)), {n: tuple(p.shape) for n, p in module.named_parameters()}
    assert expected == {name: own[name] for name in expected}
    assert len(expected) == run.model.num_layers * len(linear) + 1


def composed_layers(name: str) -> int:
    with config.composer():
        return config.compose([f"model={name}"]).model.num_layers


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_model_of_the_hub_is_pinned_or_says_why_not(name):
    text = (config.CONF / f"model/{name}.yaml").read_text()
    assert re.search(r"^revision: ([0-9a-f]{40}|null)   # \w", text, re.MULTILINE)
