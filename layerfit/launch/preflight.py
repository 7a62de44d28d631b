"""Checks before anything expensive is imported or loaded: each failure is one line with its fix.

Nothing is fetched for a check: models and data that only the hub has are not looked at.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerfit.anatomy import Anatomy, num_parameters, read_parts
from layerfit.config import check_against_model
from layerfit.config.schema import (
    EngineConfig,
    EvalConfig,
    HubConfig,
    ModelConfig,
    PathsConfig,
    RunConfig,
    TrackerConfig,
)
from layerfit.data.check import check_dataset, check_template
from layerfit.distributed.place import find_place
from layerfit.errors import UserError
from layerfit.evaluation.judge.check import check_judge
from layerfit.evaluation.protocols import check_protocols
from layerfit.files.os_errors import os_error_line
from layerfit.files.sizes import show, show_both
from layerfit.methods.base import STATIC, Method
from layerfit.methods.rankings import ranking_file
from layerfit.models.architecture import model_config, read_anatomy
from layerfit.models.hub import dataset_source, model_source
from layerfit.models.metadata import check_metadata
from layerfit.models.tokens import check_ids, num_rows
from layerfit.models.weights import check_weights, weight_files
from layerfit.records.aside import KINDS
from layerfit.records.record import read_findings
from layerfit.world.spec import ORG, world_of

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
RECORD_BYTES = 2**18
"""What a record and the outcomes of its items take, with room to spare: the largest committed one has 45 KiB."""
RANK_BYTES = 300 * 2**20
"""What a process has for itself once it has imported what a run needs (measured: 369 MiB), rounded down."""


def preflight(run: RunConfig, *, here: bool = True) -> None:
    """Check a run against this machine, in about a second, without importing torch.

    here: it is executed on this machine; if not (a login node), its device is looked at where it is.

    Raises:
        UserError: naming the first thing that is missing or does not fit, and the fix.
    """
    if here:
        check_device(run.engine)
    if here and find_place() is None:  # ranks that were started separately are on their machines already
        check_ranks(run.engine)
    check_tracker(run.tracker)
    check_writable(run.paths)
    if not isinstance(source := model_source(run.model, run.hub), str):
        check_model(run.model, run.hub, read_anatomy(run.model, source))
    check_method(run, source)
    check_world(run)
    check_dataset(run.dataset, run.hub, run.method.probe_source())
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


def _gpus() -> int:
    """Return the number of NVIDIA's devices that this machine shows; 0 if it has none or shows them in another way."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def check_ranks(engine: EngineConfig) -> None:
    """Raise UserError if this machine cannot run the ranks of `engine.ranks`: a GPU for each, or memory."""
    gpus = _gpus() if engine.device != "cpu" else 0
    if 0 < gpus < engine.ranks:
        raise UserError(
            f"engine.ranks={engine.ranks} but this machine has {gpus} GPU{'s' if gpus > 1 else ''} and each rank needs "
            f"one of its own; set engine.ranks={gpus} or lower, or engine.device=cpu"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if engine.ranks * RANK_BYTES > memory:
        raise UserError(
            f"engine.ranks={engine.ranks}: each needs {show(RANK_BYTES)} before any model is loaded and this "
            f"machine has {show(memory)}; at most {memory // RANK_BYTES} fit"
        )


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
    """Return the path, or the nearest place above it that is there: a folder, a file, a link that leads nowhere."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def check_writable(paths: PathsConfig) -> None:
    """Raise UserError if the output folders, or those of `results/`, cannot be made or written to."""
    for key, below in (("outputs", ()), ("results", KINDS)):
        value = getattr(paths, key)
        for place in dict.fromkeys(_existing(Path(value) / name) for name in ("", *below)):
            if why := _refuses(place):
                raise UserError(f"paths.{key}={value}: {why}; give another folder")


def _refuses(place: Path) -> str | None:
    """Return why nothing can be written in a folder that should be there, None if it can."""
    try:
        status = place.stat()
    except FileNotFoundError:
        return f"{place} is a link to {place.readlink()}, which is not there"
    except OSError as error:
        return os_error_line(error)
    if not stat.S_ISDIR(status.st_mode):
        return f"{place} is a file, not a folder"
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return f"{place} is on a read-only disk"
    return None if os.access(place, os.W_OK | os.X_OK) else f"no permission to write in {place}"


def check_model(model: ModelConfig, hub: HubConfig, anatomy: Anatomy) -> None:
    """Raise UserError if a local model lacks a part, or is not shaped as `anatomy` says."""
    folder = model_source(model, hub)
    if isinstance(folder, str):
        return
    config = model_config(folder)
    check_metadata(folder)
    found = read_parts(config)
    layers, positions = found.get("num_layers"), found.get("max_positions")
    if layers is not None and layers != anatomy.num_layers:
        raise UserError(f"model.num_layers={anatomy.num_layers} but {folder} has {layers} layers; set it to {layers}")
    if positions is not None and anatomy.max_positions is not None and positions < anatomy.max_positions:
        raise UserError(f"model.max_positions={anatomy.max_positions} but {folder} has {positions}; lower it")
    check_parts(anatomy, found, folder)
    shapes = check_weights(folder, config) if model.weights == "pretrained" else {}
    if not any((folder / name).is_file() for name in TOKENIZER):
        raise UserError(f"{folder} holds no tokenizer ({', '.join(TOKENIZER)}); copy it there")
    check_ids(folder, num_rows(config, shapes))


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
    config = model_config(folder)
    shapes = check_weights(folder, config) if weight_files(folder) else {}
    number = sum(map(math.prod, shapes.values())) or num_parameters(config) or 0
    width = 4 if run.training.dtype == "fp32" else 2
    keeps_all = run.method.trains and type(run.method).adapt is Method.adapt
    checkpoint = number * (width + (12 if run.method.switching == STATIC else 4)) if keeps_all else 0
    copies = 2 if run.training.checkpoint_every else 1
    return checkpoint * copies + (number * width if run.save.weights == "final" else 0)


def check_space(run: RunConfig) -> None:
    """Raise UserError if a disk cannot hold what a run writes: its record, and of a local model checkpoint and weights.

    Runs beside it, and what others write meanwhile, are not counted.
    """
    folder = model_source(run.model, run.hub)
    working = 0 if isinstance(folder, str) else bytes_needed(run, folder)
    for key, needed, what in (("outputs", working, "checkpoint and weights"), ("results", RECORD_BYTES, "its record")):
        value = getattr(run.paths, key)
        free = shutil.disk_usage(_existing(Path(value))).free
        if needed > free:
            wanted, there = show_both(needed, free)
            raise UserError(
                f"paths.{key}={value}: a run needs about {wanted} for {what}, {there} are free; "
                "free some space there, or give a folder on another disk"
            )
