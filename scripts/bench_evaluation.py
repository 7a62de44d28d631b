"""Speed of our model class for lm-eval against lm-eval's own, task by task.

    python scripts/bench_evaluation.py --mirror <folder with models/ and datasets/>

A random Llama of 21M parameters (2,048 positions, the 32,000 tokens of TinyLlama) on one CPU thread. Each task's
requests are built once by lm-eval; both classes answer them in turn, tokenising included. Each runs at its fastest
batch size among those at which the logits of lm-eval's own class fit the memory limit: on a CPU that class is slower
with large batches. Wall and CPU seconds are medians.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before the Hugging Face libraries: everything comes from the mirror

import torch
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM

from layerfit.config.schema import EvalConfig, HubConfig, ModelConfig, TaskConfig
from layerfit.data.redirect import local_datasets
from layerfit.evaluation.lm_eval.harness import _ask, quiet, templates_compiled_once
from layerfit.evaluation.lm_eval.prefix import Asked, SharedPrefixLM, language_model
from layerfit.evaluation.lm_eval.tasks import task_manager
from layerfit.models.hub import load_tokenizer
from layerfit.records.manifest import manifest

TASKS = {
    "mmlu": 5,
    "mmlu_anatomy": 5,
    "mmlu_professional_medicine": 5,
    "mmlu_high_school_us_history": 5,
    "agieval_aqua_rat": 0,
    "agieval_lsat_ar": 0,
    "winogrande": 5,
    "piqa": 0,
    "arc_easy": 0,
    "social_iqa": 0,
}
TINYLLAMA = ModelConfig(
    name="bench", id="TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", num_layers=22, max_positions=2048
)
LIMITS = {"mmlu": 10}
"""Items per subtask, where a task has many: all 57 subjects, but fewer items share their shots than in a real run."""
CLASSES = ("stock", "shared")
SIZES = (1, 4, 16, 64)
"""Batch sizes to try, where they fit."""
MARGIN = 1e-4
"""Rounding may reverse the order of two options that are closer than this."""


def small_llama() -> LlamaForCausalLM:
    """Return a random Llama of 21M parameters; drawn wide enough that options differ."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=32000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        initializer_range=0.06,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(shape).eval()
    model.config.use_cache = False
    return model


def requests_of(lm: HFLM, name: str, shots: int, limit: int | None) -> list[Any]:
    """Return the requests that lm-eval makes of a task."""
    found: list[Any] = []

    def record(requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        found.extend(requests)
        return [(0.0, False)] * len(requests)

    lm.loglikelihood = record  # type: ignore[method-assign]
    try:
        _ask(lm, task_manager(EvalConfig(name="bench", tasks=[TaskConfig(name=name)])), [name], shots, limit)
    finally:
        del lm.loglikelihood
    return found


def tokens_of(lm: SharedPrefixLM, requests: list[Any]) -> dict[str, int]:
    """Return the number of tokens that each class passes to the model, without padding."""
    encoded: list[Any] = []
    lm._loglikelihood_tokens = lambda found, **_: encoded.extend(found) or []  # type: ignore[method-assign]
    try:
        lm.loglikelihood(requests, disable_tqdm=True)
    finally:
        del lm._loglikelihood_tokens
    inputs = [tuple((c + a)[-(lm.max_length + 1) :][:-1]) for _, c, a in encoded]
    asked = Asked(lm, encoded, inputs, list(range(len(inputs))))
    ours = sum(group.base for group in asked.groups)
    ours += sum(len(row.tokens) for group in asked.groups for row in asked.trees(group))
    return {"stock": sum(len(tokens) for tokens in asked.sequences), "shared": ours}


def peak_bytes(*, reset: bool = False) -> int | None:
    """Return this process's peak memory since the last reset, None where the system does not report it."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def timed(lm: HFLM, requests: list[Any], size: int) -> tuple[float, float, int | None, list[tuple[float, bool]]]:
    """Return wall seconds, CPU seconds, the peak of memory above the start in bytes, and the answers."""
    lm.batch_size_per_gpu = size
    before = peak_bytes(reset=True)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = peak_bytes()
    return wall, cpu, None if after is None or before is None else max(0, after - before), answers


def choices(requests: list[Any], answers: list[tuple[float, bool]]) -> list[tuple[int, float]]:
    """Return the likeliest option of every item and its margin over the next, raw and by length in characters."""
    options: dict[Any, list[tuple[int, float, int]]] = defaultdict(list)
    for request, (value, _) in zip(requests, answers, strict=True):
        options[request.task_name, request.doc_id].append((request.idx, value, len(request.args[1])))
    found = []
    for item in options.values():
        for values in ([v for _, v, _ in sorted(item)], [v / n for _, v, n in sorted(item)]):
            ranked = sorted(values, reverse=True)
            found.append((values.index(ranked[0]), ranked[0] - ranked[1]))
    return found


def compared(requests: list[Any], answers: dict[str, list[tuple[float, bool]]]) -> dict[str, Any]:
    """Return how far the answers of the two classes differ."""
    pairs = list(zip(*(answers[name] for name in CLASSES), strict=True))
    picked = zip(*(choices(requests, answers[name]) for name in CLASSES), strict=True)
    differ = [min(a[1], b[1]) for a, b in picked if a[0] != b[0]]
    return {
        "largest_difference": max(abs(a[0] - b[0]) for a, b in pairs),
        "greedy_flags_differing": sum(a[1] != b[1] for a, b in pairs),
        "answers_differing": len(differ),
        "answers_differing_beyond_margin": sum(margin > MARGIN for margin in differ),
    }


def bench(lms: dict[str, Any], name: str, shots: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements of one task."""
    requests = requests_of(lms["stock"], name, shots, min(options.limit, LIMITS.get(name, options.limit)) or None)
    stock = lms["stock"]
    longest = max(len(stock.tok_encode("".join(request.args))) for request in requests)
    logits = 2 * min(longest, stock.max_length) * 32000 * 4  # logits and their log-softmax in fp32, a sequence
    sizes = [size for size in SIZES if size * logits <= options.memory_gib * 2**30] or [1]
    row: dict[str, Any] = {"task": name, "shots": shots, "items": len({(r.task_name, r.doc_id) for r in requests})}
    row |= {"requests": len(requests), "longest": longest}
    row["tokens"] = tokens_of(lms["shared"], requests)
    if options.repeats == 0:
        return row
    tried = {key: {size: timed(lms[key], requests, size)[1] for size in sizes} for key in CLASSES}
    best = {key: min(tried[key], key=lambda size: tried[key][size]) for key in CLASSES}
    runs: dict[str, list[Any]] = {key: [] for key in CLASSES}
    for _ in range(options.repeats):
        for key in CLASSES:
            runs[key].append(timed(lms[key], requests, best[key]))
    for key in CLASSES:
        walls, cpus, peaks, _ = zip(*runs[key], strict=True)
        row[key] = {"wall_s": statistics.median(walls), "cpu_s": statistics.median(cpus)}
        row[key]["peak_mib"] = None if None in peaks else max(peaks) / 2**20
        row[key] |= {"cpu_s_runs": cpus, "batch_size": best[key], "cpu_s_by_batch_size": tried[key]}
    row["cpu_ratio"] = row["stock"]["cpu_s"] / row["shared"]["cpu_s"]
    row["wall_ratio"] = row["stock"]["wall_s"] / row["shared"]["wall_s"]
    return row | compared(requests, {key: runs[key][-1][3] for key in CLASSES})


def table(rows: list[dict[str, Any]]) -> str:
    """Return the ratios as Markdown."""
    lines = [
        "| task | shots | items | batches | stock CPU s | ours CPU s | ratio | wall ratio | stock peak MiB | ours |"
        " largest difference | other answers (margin > 1e-4) |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        stock, ours = row["stock"], row["shared"]
        peaks = " | ".join("?" if part["peak_mib"] is None else f"{part['peak_mib']:.0f}" for part in (stock, ours))
        lines.append(
            f"| {row['task']} | {row['shots']} | {row['items']} |"
            f" {stock['batch_size']}, {ours['batch_size']} | {stock['cpu_s']:.2f} |"
            f" {ours['cpu_s']:.2f} | **{row['cpu_ratio']:.1f}x** | {row['wall_ratio']:.1f}x | {peaks} |"
            f" {row['largest_difference']:.1e} |"
            f" {row['answers_differing']} ({row['answers_differing_beyond_margin']}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", required=True, help="folder with models/ and datasets/")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--limit", type=int, default=40, help="items per task or subtask; 0 = all")
    parser.add_argument("--repeats", type=int, default=3, help="0 = count tokens only")
    parser.add_argument("--memory-gib", type=float, default=2.0, help="for logits and log-softmax of the stock class")
    parser.add_argument("--out", default="results/bench/evaluation.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    hub = HubConfig(mirror=options.mirror, offline=True)
    model, tokenizer = small_llama(), load_tokenizer(TINYLLAMA, hub)
    with quiet(), templates_compiled_once(), local_datasets(hub), torch.no_grad():
        settings = [EvalConfig(name="bench", model_class=name) for name in CLASSES]
        lms = {setting.model_class: language_model(model, tokenizer, setting) for setting in settings}
        assert isinstance(lms["shared"], SharedPrefixLM), "a Llama shares"
        rows = []
        for name in options.tasks:
            rows.append(bench(lms, name, TASKS.get(name, 0), options))
            print(table(rows[-1:]).splitlines()[-1] if options.repeats else rows[-1], flush=True)
    if not options.repeats:
        return
    print("\n" + table(rows))
    record = {
        "what": "seconds of lm.loglikelihood, tokenising included, at the same batch size; medians, in turn",
        "model": {"parameters": sum(p.numel() for p in model.parameters()), "config": model.config.to_diff_dict()},
        "limit": options.limit,
        "repeats": options.repeats,
        "memory_gib": options.memory_gib,
        "threads": 1,
        "manifest": {k: v for k, v in manifest("cpu", {"tokenizer": "mirror"}).items() if k != "command"},
        "tasks": rows,
    }
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
