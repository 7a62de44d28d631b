"""Comparison of our evaluation with lm-eval's own command line: the same weights, data and seeds, item by item.

The reference is `python -m lm_eval run` in a separate process, in which only the mirror in place of the hub is ours.
Every outcome of every item is compared, and the identity of the items.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfit.config.schema import EvalConfig, HubConfig, ModelConfig, TaskConfig
from layerfit.errors import UserError
from layerfit.files.writing import write_atomically
from layerfit.records.manifest import manifest
from layerfit.records.record import Items, Score

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

COMMAND_LINE = """
import json, sys
import torch
from layerfit.models.hub import prepare_environment
from layerfit.data.redirect import local_datasets
from layerfit.config.schema import HubConfig
hub = HubConfig(**json.loads(sys.argv.pop(1)))
prepare_environment(hub)
torch.set_num_threads(int(sys.argv.pop(1)))
from lm_eval.__main__ import cli_evaluate
with local_datasets(hub):
    cli_evaluate()
"""
_SAMPLES = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT.*\.jsonl")


@dataclass(frozen=True)
class TaskSet:
    """Tasks or groups that one call on each side runs: our name -> lm-eval's name, at one number of shots."""

    tasks: dict[str, str]
    num_fewshot: int


PARTS: dict[str, TaskSet] = {
    "winogrande": TaskSet({"winogrande": "winogrande"}, 5),
    "piqa": TaskSet({"piqa": "piqa"}, 0),
    "social_iqa": TaskSet({"social_iqa": "social_iqa"}, 0),
    "arc_easy": TaskSet({"arc_easy": "arc_easy"}, 0),
    # The command line cannot run AGIEval with shots: tests/evaluation/test_agieval.py builds those by hand.
    "agieval": TaskSet({f"agieval_mc_{s}": f"agieval_{s}" for s in ("aqua_rat", "lsat_ar", "lsat_lr", "sat_math")}, 0),
    "mmlu": TaskSet({"mmlu": "mmlu"}, 5),
}


@dataclass(frozen=True)
class Setting:
    """Settings of both sides. positions: instead of the model's own, for answers that are longer."""

    limit: int | None = None
    batch_size: int = 16
    positions: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class TaskOutcomes:
    """Outcomes of one task on the command line, by metric, in the task's order. docs: hash of its items."""

    metrics: dict[str, list[float]]
    docs: str


def read_samples(folder: Path) -> dict[str, TaskOutcomes]:
    """Return the outcomes that the command line wrote below a folder, by task."""
    from layerfit.evaluation.lm_eval.harness import hash_of

    found = {}
    for path in sorted(folder.rglob("samples_*.jsonl")):
        match = _SAMPLES.fullmatch(path.name)
        assert match is not None, path.name
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        samples = sorted(lines, key=lambda sample: sample["doc_id"])
        metrics = {metric: [float(sample[metric]) for sample in samples] for metric in samples[0]["metrics"]}
        found[match[1]] = TaskOutcomes(metrics, hash_of([sample["doc_hash"] for sample in samples]))
    return found


def command_line(model: Path, part: TaskSet, hub: HubConfig, setting: Setting, out: Path) -> dict[str, TaskOutcomes]:
    """Run lm-eval's command line on a model's folder.

    Raises:
        UserError: with its last line, if it fails.
    """
    import torch

    arguments = ["run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32"]
    arguments += ["--tasks", ",".join(part.tasks.values()), "--num_fewshot", str(part.num_fewshot)]
    arguments += ["--batch_size", str(setting.batch_size), "--device", setting.device]
    arguments += ["--log_samples", "--output_path", str(out)]
    arguments += [] if setting.limit is None else ["--limit", str(setting.limit)]
    where = json.dumps({"mirror": hub.mirror, "offline": hub.offline})
    command = [sys.executable, "-c", COMMAND_LINE, where, str(torch.get_num_threads()), *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"lm-eval's command line failed on {', '.join(part.tasks.values())}: {last}")
    return read_samples(out)


def differences(part: TaskSet, scores: list[Score], items: Items, theirs: dict[str, TaskOutcomes]) -> dict[str, Any]:
    """Return, by our score key, the number of items, of equal ones, and every differing (item, ours, lm-eval's).

    An outcome that only lm-eval has counts as a difference; those that only we have are not looked at.
    """
    renamed = {stock: own for own, stock in part.tasks.items()}
    expected = {
        f"{renamed.get(task, task)}/{metric}": (numbers, outcomes.docs)
        for task, outcomes in theirs.items()
        for metric, numbers in outcomes.metrics.items()
    }
    docs = {score.key: score.docs for score in scores}
    out: dict[str, Any] = {}
    for key, (numbers, hashed) in sorted(expected.items()):
        ours = items.get(key, [])
        same = len(ours) == len(numbers) and docs.get(key) == hashed
        differing = [[i, a, b] for i, (a, b) in enumerate(zip(ours, numbers, strict=False)) if a != b]
        equal = len(numbers) - len(differing) if same else 0
        out[key] = {"items": len(numbers), "equal": equal, "same_items": same, "differing": differing}
    return out


def compare(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase, part: TaskSet, hub: HubConfig, setting: Setting
) -> dict[str, Any]:
    """Run one part on both sides and return the differences, task versions and seconds."""
    from layerfit.evaluation.lm_eval.harness import evaluate

    tasks = [TaskConfig(name=name, num_fewshot=part.num_fewshot) for name in part.tasks]
    mine = EvalConfig("parity", tasks, "evaluation/task_files", setting.limit, setting.batch_size)
    start = time.perf_counter()
    scores, items = evaluate(module, tokenizer, mine, hub, setting.device)
    middle = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        module.save_pretrained(model)  # type: ignore[operator]
        tokenizer.save_pretrained(model)
        theirs = command_line(model, part, hub, setting, Path(folder, "out"))
    end = time.perf_counter()
    return {
        "num_fewshot": part.num_fewshot,
        "task_versions": {score.task: score.version for score in scores},
        "seconds": {"ours": round(middle - start, 1), "lm_eval": round(end - middle, 1)},
        "scores": differences(part, scores, items, theirs),
    }


def totals(parts: dict[str, Any]) -> dict[str, int]:
    """Return the numbers of outcomes compared and of equal ones."""
    every = [score for part in parts.values() for score in part["scores"].values()]
    return {key: sum(score[key] for score in every) for key in ("items", "equal")}


def _header(model: ModelConfig, setting: Setting) -> dict[str, Any]:
    made = manifest(setting.device, {})
    return {
        "model": model.id,
        "weights": model.weights,
        "dtype": "fp32",
        "positions": setting.positions or model.max_positions,
        "limit": setting.limit,
        "batch_size": setting.batch_size,
        **{key: made[key] for key in ("commit", "dirty", "python", "versions", "device")},
    }


def run(
    model: ModelConfig,
    hub: HubConfig,
    parts: list[str],
    setting: Setting,
    path: Path,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compare parts and write the report after each; parts already compared with the same setting are kept.

    Returns:
        The report: `items` and `equal` count outcomes over all parts and metrics.

    Raises:
        UserError: if the model or data is missing, or lm-eval's command line fails.
    """
    from layerfit.models.hub import load_model, load_tokenizer

    report: dict[str, Any] = {"setting": _header(model, setting), "parts": {}}
    if path.exists() and (old := json.loads(path.read_text()))["setting"] == report["setting"]:
        report["parts"] = old["parts"]
    module: Any = load_model(model, hub, "fp32", device=setting.device)
    tokenizer = load_tokenizer(model, hub)
    if setting.positions is not None:
        module.config.max_position_embeddings = setting.positions
    for name in parts:
        if name in report["parts"]:
            say(f"{name}: compared before")
            continue
        found = compare(module, tokenizer, PARTS[name], hub, setting)
        report["parts"][name] = found
        report |= totals(report["parts"])
        write_atomically(path, (json.dumps(report, indent=1, sort_keys=True) + "\n").encode())
        counts = totals({name: found})
        say(f"{name}: {counts['equal']} of {counts['items']} outcomes equal, seconds: {found['seconds']}")
    return report | totals(report["parts"])
