"""What cannot work is said before anything expensive, in one line with the fix."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest

from layerfit.config.schema import (
    DatasetConfig,
    EngineConfig,
    EvalConfig,
    HubConfig,
    ModelConfig,
    OptimConfig,
    PathsConfig,
    RunConfig,
    SaveConfig,
    TaskConfig,
    TrainingConfig,
)
from layerfit.distributed.place import Place
from layerfit.errors import UserError
from layerfit.launch import local
from layerfit.launch import preflight as module
from layerfit.launch.preflight import bytes_needed, num_parameters, preflight
from layerfit.methods import METHODS
from layerfit.models import hub as hub_module
from tests.helpers.model_files import safetensors

CONFIG = {"num_hidden_layers": 2, "max_position_embeddings": 32, "hidden_size": 8, "vocab_size": 16, "dtype": "float32"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that passes, on a mirror of its own."""
    monkeypatch.setattr(hub_module, "EMBEDDED", tmp_path / "none")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mirror/models/org/model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (folder / "model.safetensors").write_bytes(safetensors({"weight": (100,)}))
    data = tmp_path / "mirror/datasets/org/data"
    data.mkdir(parents=True)
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    return RunConfig(
        model=ModelConfig(name="m", id="org/model", num_layers=2, max_positions=32),
        method=METHODS["full"](),
        dataset=DatasetConfig(name="d", id="org/data", form="prompt", template="plain", validation_split="validation"),
        eval=EvalConfig(name="e", tasks=[TaskConfig(name="piqa", dataset="org/data")]),
        engine=EngineConfig(name="torch"),
        optim=OptimConfig(lr=1e-3),
        training=TrainingConfig(max_steps=1, batch_size=1, max_length=8, dtype="fp32"),
        hub=HubConfig(mirror=str(tmp_path / "mirror"), offline=True),
        paths=PathsConfig(outputs=str(tmp_path / "outputs"), results=str(tmp_path / "results")),
    )


def test_a_run_that_can_start_passes(run):
    preflight(run)
    assert not hub_module.Path(run.paths.outputs).exists()


CASES = [
    ("model", {"id": "org/other"}, r"model 'org/other' is not here .*put it at"),
    ("model", {"num_layers": 3}, r"num_layers=3 but .* has 2 layers; set it to 2"),
    ("model", {"max_positions": 64}, r"max_positions=64 but .* has 32"),
    ("model", {"path": "/nowhere"}, r"model.path=/nowhere is not a folder"),
    ("dataset", {"id": "org/other"}, r"dataset 'org/other' is not here"),
    ("dataset", {"split": "test"}, r"dataset.split=test is not in .*; use one of: train, validation"),
    ("dataset", {"validation_split": "dev"}, r"dataset.validation_split=dev is not in"),
    ("dataset", {"form": "alpaca"}, r"dataset.form=alpaca needs the text column 'instruction'"),
    ("dataset", {"subset": "en"}, r"subset=en"),
    ("eval", {"tasks": [TaskConfig(name="piqqa")]}, r"no task 'piqqa'; similar: .*piqa"),
    ("eval", {"tasks": [TaskConfig(name="piqa", dataset="baber/piqa")]}, r"dataset 'baber/piqa' is not here"),
    ("eval", {"include": "world/nothing"}, r"eval.include=world/nothing is not a folder"),
    ("hub", {"mirror": "/nowhere"}, r"hub.mirror=/nowhere is not a folder"),
    ("paths", {"outputs": __file__}, r"paths.outputs=.* is a file, not a folder"),
    ("paths", {"results": f"{__file__}/below"}, r"paths.results=.* is a file, not a folder"),
]


@pytest.mark.parametrize(("part", "change", "message"), CASES)
def test_what_is_asked_wrongly_is_named(run, part, change, message):
    setattr(run, part, dataclasses.replace(getattr(run, part), **change))
    with pytest.raises(UserError, match=message) as error:
        preflight(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("models/org/model/config.json", None, r"has no config.json"),
        ("models/org/model/config.json", "{", r"config.json is not JSON"),
        ("models/org/model/model.safetensors", None, r"holds no weights; put them there, or set model.weights=random"),
        ("models/org/model/tokenizer.json", None, r"holds no tokenizer"),
        ("datasets/org/data/train.jsonl", "\n", r"split 'train' of .* has no rows"),
        ("datasets/org/data/train.jsonl", "{", r"train.jsonl:1: it is not JSON"),
        ("datasets/org/data/validation.jsonl", "", r"split 'validation' of .* has no rows"),
        ("datasets/org/data/train.jsonl", '{"prompt": "a"}', r"needs the text column 'response'"),
    ],
)
def test_what_is_missing_or_broken_is_named(run, path, content, message):
    place = hub_module.Path(run.hub.mirror) / path
    place.unlink() if content is None else place.write_text(content)
    with pytest.raises(UserError, match=message):
        preflight(run)


def test_random_weights_need_no_weights(run):
    (hub_module.Path(run.hub.mirror) / "models/org/model/model.safetensors").unlink()
    run.model.weights = "random"
    preflight(run)


def test_the_network_may_have_what_is_not_here(run):
    run.hub = HubConfig()
    preflight(run)


def test_a_full_disk_is_said(run, monkeypatch):
    usage = shutil._ntuple_diskusage(10, 9, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"paths.outputs=.* needs about 1.6 KiB .*, 100 B are free"):
        preflight(run)


@pytest.mark.parametrize(
    ("method", "every", "save", "needed"),
    [
        ("full", 0, "none", 100 * 16),
        ("full", 5, "none", 100 * 32),
        ("full", 0, "final", 100 * 20),
        ("lisa", 0, "none", 100 * 8),
        ("lora", 5, "none", 0),
        ("vanilla", 0, "final", 400),
    ],
)
def test_bytes_needed(run, method, every, save, needed):
    run.method, run.save = METHODS[method](), SaveConfig(weights=save)
    run.training.checkpoint_every = every
    assert bytes_needed(run, hub_module.model_source(run.model, run.hub)) == needed


def test_no_cuda_is_said(run, monkeypatch):
    monkeypatch.setattr(module, "has_cuda", lambda: False)
    run.engine.device = "cuda"
    with pytest.raises(UserError, match=r"engine.device=cuda but there is no CUDA device"):
        preflight(run)


def test_parameters_are_counted_within_a_percent():
    llama = {"hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 32000, "intermediate_size": 11008}
    assert num_parameters(llama) == pytest.approx(6.738e9, rel=0.01)
    grouped = {"num_key_value_heads": 8, "num_attention_heads": 32, "intermediate_size": 14336}
    assert num_parameters(llama | grouped) == pytest.approx(7.242e9, rel=0.01)
    assert num_parameters({"n_embd": 8}) is None


def test_the_module_is_light():
    code = (
        "import layerfit.launch.preflight, sys;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'lm_eval', 'pyarrow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_ranks_need_a_gpu_each_and_memory(run, monkeypatch):
    run.engine = EngineConfig(name="zero0", ranks=4)
    monkeypatch.setattr(module, "find_place", lambda: None)
    monkeypatch.setattr(module, "_gpus", lambda: 2)
    with pytest.raises(UserError, match=r"engine\.ranks=4 but this machine has 2 GPUs .* set engine\.ranks=2 or lower"):
        module.check_ranks(run.engine)
    run.engine.device = "cpu"
    module.check_ranks(run.engine)
    run.engine.ranks = 999_999
    with pytest.raises(UserError, match=r"engine\.ranks=999999: each needs 300\.0 MiB .* at most \d+ fit"):
        module.check_ranks(run.engine)
    with pytest.raises(UserError, match="at most"):
        preflight(run)
    monkeypatch.setattr(module, "find_place", lambda: Place(0, 999_999, 0, "localhost", 1))
    module.preflight(run)  # they were started elsewhere


def test_more_ranks_than_cores_is_a_warning(run, monkeypatch):
    monkeypatch.setattr(local, "slots", lambda: [None, None])
    run.engine.ranks = 2
    assert local.crowded([run]) is None
    run.engine.ranks = 8
    assert local.crowded([run]).startswith("engine.ranks=8 on 2 cores: the ranks take turns")
