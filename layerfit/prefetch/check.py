"""Lists everything that runs without network would lack, one line each; no socket is opened.

The list includes the errors of `layerfit.launch.preflight` for a run's model, data and tasks with `hub.offline=true`:
if it is empty, preflight passes (this machine's devices, disks and keys aside). It covers more than preflight: every
subset and split that a task reads, every shard of the weights, every fetched file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from layerfit.config.schema import HubConfig, RunConfig
from layerfit.data.check import check_dataset, check_template
from layerfit.errors import UserError
from layerfit.evaluation.judge import check as judge
from layerfit.evaluation.judge.files import REFERENCE, REPOSITORY, load_bench
from layerfit.evaluation.protocols import check_protocols
from layerfit.files.dataset_folder import data_files
from layerfit.launch import preflight
from layerfit.models import receipt
from layerfit.models.architecture import model_config, read_anatomy
from layerfit.models.hub import DATASETS, MODELS, cached_snapshot, local_copy, model_source
from layerfit.models.weights import check_weights, weight_files
from layerfit.prefetch.needs import Need, needs, parts_of, unknown


def offline(run: RunConfig, mirror: Path) -> RunConfig:
    """Return the run with the mirror and `hub.offline`, as on a machine without network."""
    hub = HubConfig(mirror=str(mirror) if mirror.is_dir() else None, offline=True)
    return dataclasses.replace(run, hub=hub)


def missing(runs: Iterable[RunConfig], mirror: Path, again: str, *, hashes: bool = False) -> list[str]:
    """Return the faults of all runs, each once, with its fix.

    again: the command that fetches it. hashes: also compare every fetched file's content with the hub's hash.
    """
    there = [offline(run, mirror) for run in runs]
    lacking = {
        (need.kind, need.repo): [f"{line}; {again}" for line in lacks(need, mirror, hashes=hashes)]
        for need in needs(there)
    }
    lines = dict.fromkeys(line for listed in lacking.values() for line in listed)
    lines |= dict.fromkeys(
        f"task {task} reads data without a hub id, which a mirror cannot provide; leave it out, or run it with network"
        for task in unknown(there)
    )
    wrong = {key for key, listed in lacking.items() if listed}
    seen = set()
    for run in there:
        parts = repr((run.model, run.dataset, run.eval, run.training, run.method))
        if parts not in seen:
            seen.add(parts)
            lines |= dict.fromkeys(_of_run(run, wrong, mirror))
    return list(lines)


def lacks(need: Need, mirror: Path, *, hashes: bool = False) -> list[str]:
    """Return the faults of one repository in the folder from which a run without network would read it."""
    hub = HubConfig(mirror=str(mirror) if mirror.is_dir() else None, offline=True)
    folder = local_copy(need.kind, need.repo, hub) or cached_snapshot(need.kind, need.repo, need.revision)
    if folder is None:
        return [f"{need.name} ({', '.join(need.why)}) is not at {mirror / need.kind / need.repo}"]
    try:
        found = receipt.read(folder)
        out = [] if found is None else _by_receipt(need, folder, found, hashes=hashes)
        return out or (_of_model(need, folder) if need.kind == MODELS else _of_dataset(need, folder))
    except UserError as error:
        return [str(error)]


def _by_receipt(need: Need, folder: Path, found: receipt.Receipt, *, hashes: bool) -> list[str]:
    if need.revision not in (None, found.revision, found.commit):
        return [f"{folder} holds {found.revision or found.commit} and {need.name} is pinned at {need.revision}"]
    out = [f"{folder / file.path} {why}" for file, why in receipt.damaged(folder, found, hashes=hashes)]
    return out or ([] if found.complete else [f"{folder} was not completely fetched"])


def _of_model(need: Need, folder: Path) -> list[str]:
    out = [] if (folder / "config.json").is_file() else [f"{folder} holds no config.json"]
    if not any((folder / name).is_file() for name in preflight.TOKENIZER):
        out.append(f"{folder} holds no tokenizer ({', '.join(preflight.TOKENIZER)})")
    if not need.weights:
        return out
    files = weight_files(folder)
    if absent := [f"{path} is missing" for path in files if not path.is_file()]:
        return out + absent
    if not files:
        return [*out, f"{folder} holds no weights"]
    if not out:
        check_weights(folder, model_config(folder))
    return out


def _of_dataset(need: Need, folder: Path) -> list[str]:
    out: dict[str, None] = {}
    for part in need.parts:
        if part.subset is None and part.split is None:
            continue
        try:
            splits = data_files(folder, part.subset)
        except UserError as error:
            out[str(error)] = None
            continue
        if part.split is not None and part.split not in splits:
            subset = "" if part.subset is None else f" of subset {part.subset}"
            out[f"{folder} lacks the split {part.split!r}{subset} that {part.task} reads"] = None
    return list(out)


def _of_run(run: RunConfig, wrong: set[tuple[str, str]], mirror: Path) -> list[str]:
    """Return the errors of preflight for a run, part by part, skipping repositories with known faults (`wrong`)."""
    model_here = (MODELS, run.model.id) not in wrong or run.model.path is not None
    data_here = (DATASETS, run.dataset.id) not in wrong or run.dataset.path is not None
    checks: list[Callable[[], object]] = []
    if model_here:
        checks.append(lambda: _check_model(run))
        checks.append(lambda: preflight.check_method(run, model_source(run.model, run.hub)))
    if data_here:
        checks.append(lambda: check_dataset(run.dataset, run.hub))
    if model_here and data_here:
        checks.append(lambda: check_template(run.dataset, run.model, run.hub))
    for task in run.eval.tasks:
        one = dataclasses.replace(run.eval, tasks=[task])
        if not wrong.intersection((DATASETS, str(part.repo)) for part in parts_of(run.eval) if part.task == task.name):
            checks.append(lambda one=one: check_protocols(one, run.hub))  # type: ignore[misc]
    checks += _judge_checks(run, mirror, model_here=model_here, judge_here=_judge_here(run, wrong))
    return [line for check in checks if (line := _said(check)) is not None]


def _said(check: Callable[[], object]) -> str | None:
    try:
        check()
    except UserError as error:
        return str(error)
    return None


def _check_model(run: RunConfig) -> None:
    source = model_source(run.model, run.hub)
    if isinstance(source, Path):
        model_config(source)
        preflight.check_model(run.model, run.hub, read_anatomy(run.model, source))


def _judge_here(run: RunConfig, wrong: set[tuple[str, str]]) -> bool:
    return (MODELS, run.eval.judge.model_path or "") not in wrong


def _judge_checks(run: RunConfig, mirror: Path, *, model_here: bool, judge_here: bool) -> list[Callable[[], object]]:
    config = run.eval.judge
    out: list[Callable[[], object]] = []
    if not config.benchmarks:
        return []
    if config.model_path is None:
        out.append(lambda: judge.check_server(config, run.hub))
    elif judge_here:
        out.append(lambda: judge.check_local(config, run.hub))
    out += [partial(_check_bench, run, name, mirror) for name in config.benchmarks]
    if model_here:
        out.append(lambda: judge.check_model_template(config, run.model, run.hub))
    return out


def _check_bench(run: RunConfig, name: str, mirror: Path) -> None:
    """Raise UserError if a judged benchmark's files are missing, naming those to copy: they are not on the hub."""
    config = run.eval.judge
    try:
        load_bench(config, name, run.hub)
    except UserError as error:
        if config.data is not None:
            raise
        files = ["judge_prompts.jsonl", f"{name}/question.jsonl"]
        files.append(f"{name}/reference_answer/{REFERENCE}.jsonl")
        raise UserError(
            f"{error}; to copy by hand: {', '.join(files)} from fastchat/llm_judge/data of a checkout of "
            f"github.com/{REPOSITORY} to {mirror / DATASETS / REPOSITORY}, under the same names"
        ) from error
