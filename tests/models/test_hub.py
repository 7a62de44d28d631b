"""Where models and data are looked for, and that offline means offline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layerfit.config.schema import HubConfig, ModelConfig
from layerfit.data.redirect import local_datasets
from layerfit.errors import UserError
from layerfit.models import hub as hub_module
from layerfit.models.hub import (
    dataset_source,
    load_model,
    load_tokenizer,
    model_source,
    prepare_environment,
)

MIRROR = Path(__file__).resolve().parents[3] / "shared" / "hub"
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no mirror at {MIRROR}")
LINEAR = ["self_attn.q_proj", "mlp.down_proj"]


def model(**extra):
    return ModelConfig(
        **{"name": "m", "id": "org/name", "num_layers": 2, "max_positions": 32, "linear": LINEAR} | extra
    )


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An embedded world, a mirror and a Hugging Face cache, all empty."""
    monkeypatch.setattr(hub_module, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mirror").mkdir()
    return tmp_path


def make_llama(folder, **extra):
    shape = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32} | shape
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32} | extra))
    return folder


def test_search_order(places):
    hub = HubConfig(mirror=str(places / "mirror"), offline=False)
    assert model_source(model(), hub) == "org/name"
    snapshot = places / "cache/models--org--name/snapshots/abc"
    snapshot.mkdir(parents=True)
    (places / "cache/models--org--name/refs").mkdir()
    (places / "cache/models--org--name/refs/main").write_text("abc")
    assert model_source(model(), HubConfig(offline=True)) == snapshot
    assert model_source(model(revision="abc"), HubConfig(offline=True)) == snapshot
    for place in ("mirror", "embedded"):
        (places / place / "models/org/name").mkdir(parents=True)
        assert model_source(model(), hub) == places / place / "models/org/name"
    assert model_source(model(path=str(places)), hub) == places


def test_what_is_missing_is_named_with_the_fix(places):
    offline = HubConfig(mirror=str(places / "mirror"), offline=True)
    cases = [
        (lambda: model_source(model(), offline), r"model 'org/name' is not here .*embedded.*mirror.*cache.*put it at"),
        (lambda: dataset_source("a/b", offline), r"dataset 'a/b' .*mirror/datasets/a/b, or set hub.offline=false"),
        (lambda: model_source(model(), HubConfig(mirror="/nowhere")), "hub.mirror=/nowhere is not a folder"),
        (lambda: model_source(model(path="/nowhere"), offline), "model.path=/nowhere is not a folder"),
        (lambda: dataset_source("a/b", offline, path="/nowhere"), "dataset.path=/nowhere does not exist"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_random_weights_have_the_shapes_dtype_and_seed(places):
    make_llama(places / "mirror/models/org/name")
    hub, config = HubConfig(mirror=str(places / "mirror")), model(weights="random")
    state = torch.get_rng_state()
    one, same, other = (load_model(config, hub, "bf16", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert {p.dtype for p in one.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.config._attn_implementation == "sdpa"
    assert one.config.use_cache is False


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"num_layers": 3}, "num_layers=3 but model.layers of model=m has 2"),
        ({"blocks": "transformer.h"}, "model.blocks=transformer.h is not a module"),
        ({"head": "embed_out"}, "model.head=embed_out is not a module"),
        ({"linear": ["mlp.fc1"]}, "model.linear=model.layers.0.mlp.fc1 is not a module|mlp.fc1"),
        ({"max_positions": 64}, "max_positions=64 but model=m has 32"),
        ({"weights": "pretrained"}, "holds no weights"),
    ],
)
def test_a_model_that_is_not_as_configured_is_refused(places, extra, message):
    make_llama(places / "mirror/models/org/name")
    with pytest.raises(UserError, match=message):
        load_model(model(**{"weights": "random"} | extra), HubConfig(mirror=str(places / "mirror")), "fp32")


def test_a_checkpoint_with_missing_weights_is_refused(places):
    from safetensors.torch import load_file, save_file

    folder = make_llama(places / "mirror/models/org/name")
    hub = HubConfig(mirror=str(places / "mirror"))
    load_model(model(weights="random"), hub, "fp32").save_pretrained(folder)
    assert load_model(model(), hub, "bf16").lm_head.weight.dtype == torch.bfloat16
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights, the first model.layers.1.mlp.down_proj.weight"):
        load_model(model(), hub, "fp32")


def test_offline_too_late_is_said():
    import huggingface_hub.constants as constants

    if constants.HF_HUB_OFFLINE:
        pytest.skip("this process is offline already")
    with pytest.raises(RuntimeError, match="HF_HUB_OFFLINE=1"):
        prepare_environment(HubConfig(offline=True))


def test_load_dataset_honours_the_mirror(places):
    import datasets

    folder = places / "mirror/datasets/org/data/sub"
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict({"x": [1, 2, 3]}).to_parquet(folder / "test-00000-of-00001.parquet")
    original = datasets.load_dataset
    with local_datasets(HubConfig(mirror=str(places / "mirror"), offline=True)):
        assert datasets.load_dataset("org/data", "sub")["test"]["x"][:] == [1, 2, 3]
        assert datasets.load_dataset(path="org/data", name="sub", split="test", revision="main").num_rows == 3
        with pytest.raises(UserError, match="dataset 'org/other' is not here"):
            datasets.load_dataset("org/other")
    assert datasets.load_dataset is original


def test_the_module_is_light():
    code = (
        "import layerfit.models.hub, sys; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


NO_SOCKETS = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError(f"a socket was asked for: {args}")

socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
"""

OFFLINE = """
from layerfit.data import load_data
from layerfit.models.hub import load_model, load_tokenizer, prepare_environment
from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig, TrainingConfig
hub = HubConfig(mirror={mirror!r}, offline=True)
prepare_environment(hub)
model = ModelConfig(name="s", id="karpathy/stories260K", num_layers=5, max_positions=512, head="model.embed_tokens")
tokenizer, module = load_tokenizer(model, hub), load_model(model, hub, "fp32")
dataset = DatasetConfig(name="l", id="GAIR/lima", form="messages", template="plain", seed=0)
print(load_data(dataset, TrainingConfig(max_steps=1, batch_size=1, max_length=64), hub, tokenizer).card.rows)
"""


@needs_mirror
def test_offline_opens_no_socket():
    code = NO_SOCKETS + OFFLINE.format(mirror=str(MIRROR))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.strip() == "1029"


@needs_mirror
def test_stories_continue_as_published():
    hub = HubConfig(mirror=str(MIRROR))
    config = model(id="karpathy/stories260K", num_layers=5, max_positions=512, head="model.embed_tokens")
    module, tokenizer = load_model(config, hub, "fp32"), load_tokenizer(config, hub)
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    text = tokenizer.decode(module.generate(**inputs, max_new_tokens=24, do_sample=False)[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily")
