"""Write a world's folder in the hub's layout, and check one against the generator."""

import gzip
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from layerfit.models.packed import pack, unpack
from layerfit.world.cards import dataset_card, half_card, model_card
from layerfit.world.generate import make_world
from layerfit.world.spec import ASSETS, WorldSpec
from layerfit.world.task_files import TASKS, task_files

CARD = "README.md"
WEIGHT_TOLERANCE = 1e-4  # largest absolute difference of a weight; the same CPU and torch build give 0
RETENTION_TOLERANCE = 0.02  # on another CPU or build the weights drift apart, accuracy must not


def data_files(spec: WorldSpec) -> dict[Path, str]:
    """Return the data files and cards of a world: path below a hub mirror -> text.

    A file whose name ends with `.gz` is written compressed.
    """
    world = make_world(spec)
    files = {spec.dataset_dir / name: text for name, text in world.files().items()}
    files[spec.dataset_dir / CARD] = dataset_card(spec, world)
    for kind, parts in world.halves().items():
        folder = spec.half_dir(kind)
        files |= {folder / name: text for name, text in parts.items()} | {folder / CARD: half_card(spec, kind)}
    return files


def write_data(spec: WorldSpec, root: Path) -> Path:
    """Write the compressed JSON Lines files and cards below `root`; return the main data set's folder."""
    for path, text in data_files(spec).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(_compressed(text) if path.suffix == ".gz" else text.encode())
    return root / spec.dataset_dir


def write_tasks(spec: WorldSpec, root: Path = TASKS) -> Path:
    """Write lm-eval's task files of a world; return their folder."""
    (root / spec.name).mkdir(parents=True, exist_ok=True)
    for path, text in task_files(spec).items():
        (root / path).write_text(text, encoding="utf-8", newline="\n")
    return root / spec.name


def write_model(spec: WorldSpec, root: Path, log: Callable[[str], None] = print) -> Path:
    """Pretrain (minutes) and write model, tokenizer and card below `root`; return their folder.

    The weights are written twice, plain and compressed; only the compressed file is in git.
    """
    import torch

    from layerfit.world.pretrain import accuracy, pretrain  # torch: not needed for data

    folder = root / spec.model_dir
    model, tokenizer = pretrain(spec, log)
    model.to(getattr(torch, spec.weights)).save_pretrained(folder)
    model.float()  # score the shipped (rounded) weights, computing in fp32 as a run does
    tokenizer.save_pretrained(folder)
    pack(folder, getattr(torch, spec.weights).itemsize)
    (folder / "generation_config.json").unlink(missing_ok=True)  # holds a library version and nothing else
    world = make_world(spec)
    columns = {"facts": world.facts, "rules": world.rules, "retention": world.retention}
    scores = {f"{spec.name}_{c}": accuracy(model, tokenizer, items) for c, items in columns.items()}
    parameters = sum(p.numel() for p in model.parameters())
    card = model_card(spec, parameters, len(tokenizer), scores)
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
    return folder


def check_data(spec: WorldSpec, root: Path = ASSETS) -> list[str]:
    """Return the data files below `root` that differ from the generator's or should not exist; [] if there are none."""
    files = {root / path: text.encode() for path, text in data_files(spec).items()}
    there = {path for folder in {path.parent for path in files} for path in folder.glob("*")}
    wrong = [path for path in {*files, *there} if path not in files or files[path] != _content(path)]
    return sorted(str(path.relative_to(root / spec.dataset_dir.parent)) for path in wrong)


def check_tasks(spec: WorldSpec, root: Path = TASKS) -> list[str]:
    """Return the task files for lm-eval below `root` that differ or should not exist; [] if there are none."""
    files = {root / path: text.encode() for path, text in task_files(spec).items()}
    wrong = [path for path in {*files, *(root / spec.name).glob("*")} if files.get(path) != _bytes(path)]
    return sorted(str(path.relative_to(root)) for path in wrong)


def check_model(spec: WorldSpec, root: Path = ASSETS, log: Callable[[str], None] = print) -> list[str]:
    """Pretrain again and return the differences from the model below `root`, one text each.

    Weights must agree within `WEIGHT_TOLERANCE`. Another CPU or torch build rounds differently, which a thousand
    steps amplify: then the difference is reported, and whether the accuracies on the retention items agree within
    `RETENTION_TOLERANCE`.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from layerfit.world.pretrain import accuracy

    shipped = root / spec.model_dir
    unpack(shipped)
    with tempfile.TemporaryDirectory() as made:
        fresh = write_model(spec, Path(made), log)
        names = ("config.json", "tokenizer.json", "tokenizer_config.json")
        wrong = [name for name in names if _bytes(fresh / name) != _bytes(shipped / name)]
        old, new = (load_file(folder / "model.safetensors") for folder in (shipped, fresh))
        if old.keys() != new.keys() or any(old[k].shape != new[k].shape for k in old):
            return [*wrong, "model.safetensors: other tensors"]
        gap = max((old[k] - new[k]).abs().max().item() for k in old)
        log(f"largest difference of a weight: {gap:.1e} (tolerance {WEIGHT_TOLERANCE:g})")
        if gap <= WEIGHT_TOLERANCE:
            return wrong
        items = make_world(spec).retention
        scores = [
            accuracy(
                AutoModelForCausalLM.from_pretrained(f, trust_remote_code=False),
                AutoTokenizer.from_pretrained(f, trust_remote_code=False),
                items,
            )
            for f in (shipped, fresh)
        ]
        verdict = "agrees" if abs(scores[0] - scores[1]) <= RETENTION_TOLERANCE else "DIFFERS"
        wrong.append(f"model.safetensors: weights differ by {gap:.1e}; retention {verdict} ({scores})")
        return wrong


def _compressed(text: str) -> bytes:
    """Return a text as gzip without a timestamp: the same bytes each time."""
    return gzip.compress(text.encode(), mtime=0)


def _content(path: Path) -> bytes | None:
    """Return a file's bytes, decompressed (zlib versions compress differently); None if it is missing or damaged."""
    data = _bytes(path)
    if data is None or path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
