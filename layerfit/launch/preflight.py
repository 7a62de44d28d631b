"""Checks before anything expensive is imported or loaded: each failure is one line with its fix.

Nothing is fetched for a check: models and data that only the hub has are not looked at.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerfit.anatomy import Anatomy, num_parameters, read_parts
from layerfit.config import check_against_model
from layerfit.config.schema import (
    DatasetConfig,
    EngineConfig,
    EvalConfig,
    HubConfig,
    ModelConfig,
    PathsConfig,
    RunConfig,
    TrackerConfig,
)
from layerfit.data.chat import CHAT
from layerfit.data.loading import num_held_out, read_split
from layerfit.data.sources import data_files, first_row
from layerfit.data.templates import resolve, turns
from layerfit.errors import UserError
from layerfit.evaluation.judge.check import check_judge
from layerfit.evaluation.protocols import check_protocols
from layerfit.methods.base import STATIC, Method
from layerfit.methods.rankings import ranking_file
from layerfit.models.architecture import model_config, read_anatomy
from layerfit.models.hub import dataset_source, has_weights, model_source, weight_files
from layerfit.records.record import read_findings
from layerfit.world.spec import ORG, world_of

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
_GIB = 2**30
_READ_WHOLE = 16 * 2**20
"""Bytes: files up to this size are read in less than a second."""


def preflight(run: RunConfig, *, here: bool = True) -> None:
    """Check a run against this machine, in about a second, without importing torch.

    here: it is executed on this machine; if not (a login node), its device is looked at where it is.

    Raises:
        UserError: naming the first thing that is missing or does not fit, and the fix.
    """
    if here:
        check_device(run.engine)
    check_tracker(run.tracker)
    check_writable(run.paths)
    if not isinstance(source := model_source(run.model, run.hub), str):
        check_model(run.model, run.hub, read_anatomy(run.model, source))
    check_method(run, source)
    check_world(run)
    check_dataset(run.dataset, run.hub)
    check_template(run.dataset, run.model, run.hub)
    check_eval(run.eval, run.hub)
    if run.eval.judge.benchmarks:
        check_judge(run.eval.judge, run.model, run.hub)
    check_space(run)


def check_method(run: RunConfig, source: str | Path) -> None:
    """Raise UserError if the method does not fit the model, as far as its parts are known without network."""
    if isinstance(source, str) and run.model.open_parts():
        return
    anatomy = read_anatomy(run.model, source)
    check_against_model(run, anatomy)
    if (path := ranking_file(run.method)) is not None:
        run.method.begin(run.shape(anatomy), [read_findings(path)])


def check_device(engine: EngineConfig) -> None:
    """Raise UserError if CUDA is asked for and there is no CUDA device."""
    if engine.device == "cuda" and not has_cuda():
        raise UserError("engine.device=cuda but there is no CUDA device here; set engine.device=cpu, or auto")


def check_tracker(tracker: TrackerConfig) -> None:
    """Raise UserError if W&B is asked for and is not installed, or is to be reached without a key."""
    if tracker.name != "wandb":
        return
    if importlib.util.find_spec("wandb") is None:
        raise UserError("tracker=wandb needs the package wandb: pip install 'layerfit[wandb]', or tracker=jsonl")
    if tracker.mode == "online" and not has_wandb_key():
        raise UserError(
            "tracker.mode=online needs a key: run `wandb login` or set WANDB_API_KEY, or tracker.mode=offline"
        )


def has_wandb_key() -> bool:
    """Return whether W&B finds a key here: in its variable, or where `wandb login` puts it."""
    netrc = Path.home() / ".netrc"
    return "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(errors="replace"))


def has_cuda() -> bool:
    """Return whether the system shows an accelerator, by its device files or its tool."""
    files = [path for pattern in ("nvidia[0-9]*", "dxg", "kfd") for path in Path("/dev").glob(pattern)]
    return bool(files) or shutil.which("nvidia-smi") is not None


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def check_writable(paths: PathsConfig) -> None:
    """Raise UserError if the output folders cannot be made or written to."""
    for key in ("outputs", "results"):
        value = getattr(paths, key)
        place = _existing(Path(value))
        if not place.is_dir():
            raise UserError(f"paths.{key}={value}: {place} is a file, not a folder; give another folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"paths.{key}={value}: no permission to write in {place}; give another folder")


def check_model(model: ModelConfig, hub: HubConfig, anatomy: Anatomy) -> None:
    """Raise UserError if a local model lacks a part, or is not shaped as `anatomy` says."""
    folder = model_source(model, hub)
    if isinstance(folder, str):
        return
    found = read_parts(model_config(folder))
    layers, positions = found.get("num_layers"), found.get("max_positions")
    if layers is not None and layers != anatomy.num_layers:
        raise UserError(f"model.num_layers={anatomy.num_layers} but {folder} has {layers} layers; set it to {layers}")
    if positions is not None and anatomy.max_positions is not None and positions < anatomy.max_positions:
        raise UserError(f"model.max_positions={anatomy.max_positions} but {folder} has {positions}; lower it")
    check_parts(anatomy, found, folder)
    if model.weights == "pretrained" and not has_weights(folder):
        raise UserError(f"{folder} holds no weights; put them there, or set model.weights=random")
    if not any((folder / name).is_file() for name in TOKENIZER):
        raise UserError(f"{folder} holds no tokenizer ({', '.join(TOKENIZER)}); copy it there")


def check_world(run: RunConfig) -> None:
    """Raise UserError if an embedded model is given another world's data or items: its vocabulary lacks their words."""
    if run.model.path is not None or (own := world_of((run.model.id or "").removeprefix(f"{ORG}/"))) is None:
        return
    named = {f"eval={run.eval.name}": [task.name for task in run.eval.tasks]}
    if run.method.trains and run.dataset.path is None:
        named[f"dataset={run.dataset.name}"] = [run.dataset.id.removeprefix(f"{ORG}/")]
    for asked, names in named.items():
        if other := next((w for name in names if (w := world_of(name)) not in (None, own)), None):
            raise UserError(f"model={run.model.name} knows no word of {asked}, of another world; use model={other}")


def check_parts(anatomy: Anatomy, found: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError if `anatomy` names other parts than the architecture of `config.json` has, if it is known."""
    if "blocks" not in found:
        return
    for key in ("blocks", "embedding", "norm", "head"):
        if (given := getattr(anatomy, key)) != found[key]:
            raise UserError(f"model.{key}={given} but in {folder} it is {found[key]}; set it, or model=hf")
    if missing := sorted(set(found["beside_embedding"]) - set(anatomy.beside_embedding)):
        raise UserError(f"model.beside_embedding lacks {missing[0]} of {folder}; set it, or model=hf")
    if unknown := sorted(set(anatomy.beside_embedding) - set(found["beside_embedding"])):
        raise UserError(f"model.beside_embedding names {unknown[0]}, which {folder} does not have; leave it out")
    if unknown := [name for name in anatomy.linear if name not in found["linear"]]:
        raise UserError(
            f"model.linear names {unknown[0]}, which a block of {folder} does not have; "
            f"its linear modules are: {', '.join(found['linear'])}"
        )
    if set(anatomy.norms or ()) != set(found["norms"]):
        given, known = (", ".join(names or ()) for names in (anatomy.norms, found["norms"]))
        raise UserError(f"model.norms=[{given}] but in {folder} they are [{known}]; set it, or model=hf")


def check_dataset(dataset: DatasetConfig, hub: HubConfig) -> None:
    """Raise UserError if local data lacks a split, or its first row does not have what `dataset.form` reads.

    Of a small file of the user's own every row is read: nobody has looked at it before.
    """
    source = dataset_source(dataset.id, hub, dataset.path, dataset.revision)
    if isinstance(source, str):
        return
    splits = data_files(source, dataset.subset)
    for key, split in (("split", dataset.split), ("validation_split", dataset.validation_split)):
        if split is None:
            continue
        if split not in splits:
            raise UserError(f"dataset.{key}={split} is not in {source}; use one of: {', '.join(splits)}")
        row = next((row for path in splits[split] if (row := first_row(path)) is not None), None)
        if row is None:
            raise UserError(f"dataset={dataset.name}: split {split!r} of {source} has no rows; is the copy whole?")
        turns(row, resolve(dataset.form, dataset.template, row)[0])
    if dataset.path is not None and sum(path.stat().st_size for path in splits[dataset.split]) <= _READ_WHOLE:
        num_held_out(dataset, read_split(dataset, dataset.split, hub))


def check_template(dataset: DatasetConfig, model: ModelConfig, hub: HubConfig) -> None:
    """Raise UserError if `dataset.template=chat` and a local model has no chat template."""
    folder = model_source(model, hub)
    if dataset.template != CHAT or isinstance(folder, str):
        return
    path = folder / "tokenizer_config.json"
    inside = path.is_file() and '"chat_template"' in path.read_text(encoding="utf-8")
    if not inside and not any((folder / f"chat_template.{kind}").is_file() for kind in ("jinja", "json")):
        raise UserError(
            f"dataset.template=chat but model={model.name} has no chat template (a base model?); "
            "set dataset.template=alpaca, or use an instruction-tuned model"
        )


def check_eval(config: EvalConfig, hub: HubConfig) -> None:
    """Raise UserError if a task is unknown, its data is not here with `hub.offline` set, or is not what it reads."""
    check_protocols(config, hub)
    for repo in sorted({repo for task in config.tasks for repo in task.hub_ids()}):
        dataset_source(repo, hub)


def bytes_needed(run: RunConfig, folder: Path) -> int:
    """Return about how many bytes a run writes: checkpoint (the old stays while the new is written) and weights.

    A method that adapts the model trains and keeps little of it; one that does not keeps its weights, fp32 masters and,
    where the plan never changes, two fp32 moments of each.
    """
    files = sum(path.stat().st_size for path in weight_files(folder))
    config = model_config(folder)
    stored = 4 if "32" in str(config.get("dtype", config.get("torch_dtype", "float32"))) else 2
    number = files // stored if files else num_parameters(config) or 0
    width = 4 if run.training.dtype == "fp32" else 2
    keeps_all = run.method.trains and type(run.method).adapt is Method.adapt
    checkpoint = number * (width + (12 if run.method.switching == STATIC else 4)) if keeps_all else 0
    copies = 2 if run.training.checkpoint_every else 1
    return checkpoint * copies + (number * width if run.save.weights == "final" else 0)


def check_space(run: RunConfig) -> None:
    """Raise UserError if the disk of `paths.outputs` cannot hold what a run on a local model writes."""
    folder = model_source(run.model, run.hub)
    if isinstance(folder, str):
        return
    place = _existing(Path(run.paths.outputs))
    needed, free = bytes_needed(run, folder), shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"paths.outputs={run.paths.outputs}: a run needs about {needed / _GIB:.1f} GiB for checkpoint and weights, "
            f"{free / _GIB:.1f} are free; give a folder on another disk"
        )
