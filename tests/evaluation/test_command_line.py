"""Items are scored as lm-eval's own command line scores them, and offline means offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerfit.config.schema import EvalConfig, HubConfig, ModelConfig, TaskConfig
from layerfit.evaluation.lm_eval.harness import evaluate
from layerfit.evaluation.lm_eval.tasks import PACKAGE
from layerfit.models.hub import EMBEDDED, load_model, load_tokenizer
from layerfit.records import record

MIRROR = Path(__file__).resolve().parents[3] / "shared" / "hub"
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no mirror at {MIRROR}")
STORIES = ModelConfig(name="s", id="karpathy/stories260K", num_layers=5, max_positions=512, head="model.embed_tokens")


def config(*names, **extra):
    return EvalConfig(name="t", tasks=[TaskConfig(name=name) for name in names], **extra)


COMMAND_LINE = """
import sys
import torch
torch.set_num_threads(1)
from layerfit.data.redirect import local_datasets
from layerfit.config.schema import HubConfig
from lm_eval.__main__ import cli_evaluate
with local_datasets(HubConfig(mirror=sys.argv.pop(1) or None, offline=True)):
    cli_evaluate()
"""


def command_line(folder, tasks, shots, limit, out, *, mirror="", include=None):
    """Run lm-eval's own command line on the mirror; return its outcomes by task and metric."""
    arguments = ["run", "--model", "hf", "--model_args", f"pretrained={folder}", "--tasks", ",".join(tasks)]
    arguments += ["--num_fewshot", str(shots), "--limit", str(limit), "--batch_size", "16", "--device", "cpu"]
    arguments += ["--log_samples", "--output_path", str(out)]
    arguments += [] if include is None else ["--include_path", str(include)]
    command = [sys.executable, "-c", COMMAND_LINE, str(mirror), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = {}
    for path in out.rglob("samples_*.jsonl"):
        samples = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda s: s["doc_id"])
        task = next(task for task in tasks if path.name.startswith(f"samples_{task}_"))
        outcomes |= {f"{task}/{metric}": [float(s[metric]) for s in samples] for metric in samples[0]["metrics"]}
    return outcomes


@needs_mirror
@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "shots", "limit"),
    [
        (["mmlu_abstract_algebra", "mmlu_high_school_us_history"], 5, 30),
        (["winogrande"], 5, 60),
        (["piqa", "arc_easy", "social_iqa"], 0, 100),
    ],
)
def test_items_equal_lm_evals_command_line(tmp_path, tasks, shots, limit):
    hub = HubConfig(mirror=str(MIRROR), offline=True)
    module, tokenizer = load_model(STORIES, hub, "fp32"), load_tokenizer(STORIES, hub)
    mine = EvalConfig(
        name="t", tasks=[TaskConfig(name=task, num_fewshot=shots) for task in tasks], limit=limit, batch_size=16
    )
    scores, items = evaluate(module, tokenizer, mine, hub, "cpu")
    theirs = command_line(MIRROR / "models/karpathy/stories260K", tasks, shots, limit, tmp_path, mirror=MIRROR)
    assert items == theirs
    assert all(len(outcome) == limit for outcome in items.values())
    assert {score.num_fewshot for score in scores} == {shots}
    assert any(0 < sum(outcome) < limit for outcome in items.values())


@pytest.mark.slow
@pytest.mark.skipif(not (EMBEDDED / "models" / "layerfit" / "nano").is_dir(), reason="no embedded world yet")
def test_the_embedded_tasks_equal_lm_evals_command_line(tmp_path):
    nano = ModelConfig(name="nano", id="layerfit/nano", num_layers=16, max_positions=128)
    module, tokenizer = load_model(nano, HubConfig(), "fp32"), load_tokenizer(nano, HubConfig())
    tasks = ["nano_facts", "nano_rules", "nano_retention"]
    mine = config(*tasks, include="world/tasks", limit=300, batch_size=16)
    _, items = evaluate(module, tokenizer, mine, HubConfig(), "cpu")
    folder = EMBEDDED / "models" / "layerfit" / "nano"
    assert items == command_line(folder, tasks, 0, 300, tmp_path, include=PACKAGE / "world" / "tasks")


@pytest.mark.slow
@pytest.mark.skipif(not (EMBEDDED / "models" / "layerfit" / "nano").is_dir(), reason="no embedded world yet")
def test_a_record_equals_lm_evals_command_line_on_the_saved_weights(tmp_path):
    """All items of all embedded tasks, after a training that moved the scores."""
    words = ["method=lisa", "optim.lr=4e-3", "training.max_steps=40", "save.weights=final"]
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "layerfit", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    [path] = (tmp_path / "results" / "runs").glob("*.json")
    items = record.read_items(tmp_path / "results", path.stem)
    tasks = ["nano_facts", "nano_rules", "nano_retention"]
    saved, include = tmp_path / "outputs" / path.stem / "model", PACKAGE / "world" / "tasks"
    theirs = command_line(saved, tasks, 0, 100_000, tmp_path / "theirs", include=include)
    assert items == theirs
    assert all(len(outcome) >= 2000 for outcome in items.values())
    assert sum(items["nano_retention/acc"]) < len(items["nano_retention/acc"])  # it is not the model as it was


OFFLINE = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError(f"a socket was asked for: {{args}}")

socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse

from layerfit.evaluation.lm_eval.harness import evaluate
from layerfit.models.hub import load_model, load_tokenizer, prepare_environment
from layerfit.config.schema import EvalConfig, HubConfig, ModelConfig, TaskConfig
hub = HubConfig(mirror={mirror!r}, offline=True)
prepare_environment(hub)
model = ModelConfig(name="s", id="karpathy/stories260K", num_layers=5, max_positions=512, head="model.embed_tokens")
config = EvalConfig(name="t", tasks=[TaskConfig(name="arc_easy")], limit=2)
print(evaluate(load_model(model, hub, "fp32"), load_tokenizer(model, hub), config, hub, "cpu")[0][0].num_available)
"""


@needs_mirror
@pytest.mark.slow
def test_offline_opens_no_socket():
    code = OFFLINE.format(mirror=str(MIRROR))
    env = {key: value for key, value in os.environ.items() if not key.endswith("_OFFLINE")}  # conftest sets one
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.strip() == "2376"
