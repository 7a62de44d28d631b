"""Weight norms against torch on the raw tensors, and initial norms against the published reading of the figure."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from layerfit import config
from layerfit.adapters.peft import save_trained
from layerfit.records import record
from layerfit.run.loading import fresh_model
from layerfit.run.norms import Norms
from tests.helpers.tiny import SETTINGS, composed, context_for, engine_for, engine_over, rows, share, tiny_llama

ROOT = Path(__file__).resolve().parents[2]
UNITS = ["embedding", "layers.0", "layers.1", "layers.2", "layers.3", "norm", "head"]
PARTS = {"embed_tokens": "embedding", "model.norm": "norm", "lm_head": "head"}


def unit_of(name: str) -> str:
    block = re.search(r"layers\.\d+", name)
    return block[0] if block else next(unit for part, unit in PARTS.items() if part in name)


def norms_of(tensors: dict[str, torch.Tensor]) -> list[float]:
    """All of a unit as one vector, in double precision."""
    flat = {unit: [t.double().flatten() for n, t in tensors.items() if unit_of(n) == unit] for unit in UNITS}
    return [float(torch.cat(parts).norm()) if parts else 0.0 for parts in flat.values()]


def trained(*words: str, steps: int = 2):
    """A run's norms, and its weights before and after every step: the model's own, and those of adapters."""
    run = composed(*words)
    engine = engine_for(run)
    norms, ctx = Norms(engine), context_for(run, engine, steps)
    seen = [{n: engine.read_weight(n) for n in engine.parameters}]
    for step in range(steps):
        engine.use(run.method.plan(step, ctx))
        engine.step(share(rows(step), 0, 1, 2), 0.01)
        norms.add()
        seen.append({n: engine.read_weight(n) for n in engine.parameters})
    found = norms.findings()
    assert found["units"] == UNITS
    engine.close()
    base, adapters = ([{n: t for n, t in s.items() if ("lora_" in n) is lora} for s in seen] for lora in (False, True))
    return engine, found, base, adapters


def mean(steps: list[dict[str, torch.Tensor]]) -> list[float]:
    columns = zip(*map(norms_of, steps[1:]), strict=True)
    return [sum(column) / len(column) for column in columns]


def difference(steps: list[dict[str, torch.Tensor]]) -> list[float]:
    return norms_of({n: steps[-1][n].double() - steps[0][n].double() for n in steps[0]})


@pytest.mark.parametrize("engine", ["torch", "zero0", "zero1", "zero2"])
@pytest.mark.parametrize("method", ["full", "lisa"])
def test_norms_of_weights_by_hand(method, engine):
    _, found, base, _ = trained(f"method={method}", f"engine={engine}", *SETTINGS[method], steps=4)
    assert found["initial"] == pytest.approx(norms_of(base[0]), rel=1e-5)
    assert found["mean"] == pytest.approx(mean(base), rel=1e-5)
    assert found["update"] == pytest.approx(difference(base), rel=1e-5, abs=1e-7)
    assert [found[f"adapter_{key}"] for key in ("initial", "mean", "update")] == [None] * 3
    assert found["mean"] != pytest.approx(found["initial"], rel=1e-4)
    assert (0.0 in found["update"]) == (method == "lisa")  # two draws of one block in four


@pytest.mark.parametrize("words", ["method=lora method.embeddings=true", "method=lora", "method=dora"])
@pytest.mark.parametrize("engine", ["torch", "zero2"])
def test_norms_of_adapters_by_hand(words, engine):
    _, found, base, adapters = trained(*words.split(), f"engine={engine}", "method.rank=2", "method.alpha=6")
    assert found["initial"] == found["mean"] == pytest.approx(norms_of(base[0]), rel=1e-5)
    expected = {"initial": norms_of(adapters[0]), "mean": mean(adapters), "update": difference(adapters)}
    for key, values in expected.items():
        assert [value or 0.0 for value in found[f"adapter_{key}"]] == pytest.approx(values, rel=1e-5)
        assert [value is None for value in found[f"adapter_{key}"]] == [value == 0.0 for value in values]
    assert (found["adapter_initial"][0] is None) == ("embeddings" not in words)
    now, updates = adapters[-1], {}
    for name in [n for n in now if "lora_A" in n or "embedding_A" in n]:
        path, a, b = name.split(".lora_")[0], now[name].double(), now[name.replace("_A", "_B")].double()
        update, weight = 3 * (b @ a), base[0][f"{path}.base_layer.weight"].double()
        if "dora" in words:
            magnitude = now[f"{path}.lora_magnitude_vector.default.weight"].double()
            update = magnitude[:, None] * (weight + update) / (weight + update).norm(dim=1, keepdim=True) - weight
        updates[name] = update
    assert found["update"] == pytest.approx(norms_of(updates), rel=1e-4)
    assert found["update"][1] > 0


def test_a_bottleneck_adds_to_no_weight():
    found = trained("method=series", "engine=torch", *SETTINGS["series"])[1]
    assert found["update"] is None
    assert found["adapter_update"][1] > 0


def test_norms_under_a_mask_are_those_of_the_plain_model():
    engine, found, _, _ = trained("method=random_mask", "engine=torch", *SETTINGS["random_mask"])
    start, end = tiny_llama().state_dict(), engine.module.state_dict()
    assert found["initial"] == pytest.approx(norms_of(start), rel=1e-5)
    assert found["update"] == pytest.approx(norms_of({n: end[n].double() - start[n].double() for n in start}), rel=1e-4)


def test_initial_adapter_norms_are_those_of_peft():
    """The published curve of LoRA, predicted from initialisation alone: sqrt(7 r / 3), sqrt(r / 3), sqrt(d r)."""
    with config.composer():
        run = config.compose(["model=nano", "method=lora", "method.rank=32", "method.embeddings=true", "engine=torch"])
    engine = engine_over(run, fresh_model(run, run.model.anatomy(), None, torch.device("cpu")))
    embedding, *blocks, norm, head = Norms(engine).findings()["adapter_initial"]
    assert blocks == pytest.approx([math.sqrt(7 * 32 / 3)] * run.model.num_layers, rel=0.03)
    assert embedding == pytest.approx(math.sqrt(64 * 32), rel=0.05)
    assert norm is None
    assert head == pytest.approx(math.sqrt(32 / 3), rel=0.05)


def test_embedding_adapters_are_saved_alone_and_loaded(tmp_path):
    words = ("method=lora", "method.embeddings=true", "method.rank=2", "engine=torch")
    engine, _, _, adapters = trained(*words)
    save_trained(engine.module, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(t.numel() for t in saved.values()) == sum(t.numel() for t in adapters[-1].values())
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    batch = rows(3)
    expected, got = (m.eval()(input_ids=batch.input_ids).logits for m in (engine.module, loaded))
    torch.testing.assert_close(got, expected)
    assert (got - tiny_llama().eval()(input_ids=batch.input_ids).logits).abs().max() > 1e-3


@pytest.mark.slow
def test_two_ranks_find_the_norms_of_one(tmp_path):
    found = []
    for ranks in (1, 2):
        paths = [f"paths.{kind}={tmp_path / str(ranks) / kind}" for kind in ("outputs", "results")]
        words = ["method=lisa", "method.switch_every=2", "training.max_steps=5", "training.norms=true", "eval=none"]
        command = [sys.executable, "-m", "layerfit", *words, "engine=zero2", f"engine.ranks={ranks}", *paths]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=300)
        (path,) = (tmp_path / str(ranks) / "results/runs").glob("*.json")
        found.append(record.read(tmp_path / str(ranks) / "results", path.stem).result.findings["norms"])
    assert found[0].keys() == found[1].keys()
    for key in ("initial", "mean", "update"):
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-5)
    assert found[0]["steps"] == found[1]["steps"] == 5


def test_a_required_ranking_is_the_same_run_with_and_without_norms():
    runs = [composed("method=ila", f"training.norms={value}") for value in ("false", "true")]
    assert config.run_id(runs[0]) != config.run_id(runs[1])
    assert len({config.run_id(before) for run in runs for before in config.required_runs(run)}) == 1
