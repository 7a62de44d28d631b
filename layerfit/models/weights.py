"""Whether the weights in a model's folder are whole, by the headers of their files.

The one place that says which files transformers would load, and whether they can be: asked before a run starts, before
weights are loaded, and by `layerfit.prefetch`. No tensor is read and torch is not imported.

Pickles (`pytorch_model.bin`) are read by torch with `weights_only`, which calls no function but those that make
tensors. Their table of contents is checked, and the names of what they would call; their shapes are not known before.
"""

from __future__ import annotations

import json
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerfit.anatomy import expected_shapes, read_parts
from layerfit.errors import UserError
from layerfit.files.names import check_file
from layerfit.models.metadata import read_object

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_ORDER = tuple(file for name in _SINGLE for file in (name, f"{name}.index.json"))
"""In the order of transformers' search: safetensors before pickles, one file before shards."""
_AGAIN = "copy or fetch it again"
_POINTERS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex")
_LARGEST_HEADER = 100_000_000
"""Bytes: safetensors' own limit."""
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1)
_CALLED = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
}

Shapes = dict[str, tuple[int, ...]]
"""Shapes by tensor name."""


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files that transformers would load from a folder, [] if it holds none.

    Raises:
        UserError: if the index of sharded weights is not one, or names a file outside the folder.
    """
    chosen = next((name for name in _ORDER if (folder / name).is_file()), None)
    if chosen is None:
        return []
    if not chosen.endswith(".index.json"):
        return [folder / chosen]
    index = folder / chosen
    return [folder / shard for shard in sorted(set(_weight_map(index).values()))]


def _weight_map(index: Path) -> dict[str, str]:
    """Return the shard of every tensor, by an index of sharded weights."""
    found = read_object(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{index} is not an index of weights: no weight_map of tensors to files; {_AGAIN}")
    for name in set(found.values()):
        check_file(str(index), name)
    return found


def check_weights(folder: Path, config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the weights in a model's folder, by tensor name; {} if they are pickles.

    config: its `config.json`, checked.

    Raises:
        UserError: naming the first file that is missing, cut, a pointer to another, or not what it is named after, or
            the first tensor that is missing or contradicts `config`.
    """
    files = weight_files(folder)
    if not files:
        raise UserError(f"{folder} holds no weights; put them there, or set model.weights=random")
    found: Shapes = {}
    where: dict[str, str] = {}
    for path in files:
        _check_file(path)
        shapes = safetensors_shapes(path) if path.suffix == ".safetensors" else _check_pickle(path)
        found |= shapes
        where |= dict.fromkeys(shapes, path.name)
    index = folder / f"{_SINGLE[0]}.index.json"
    if found and files != [folder / _SINGLE[0]]:
        for name, shard in _weight_map(index).items():
            if where.get(name) != shard:
                raise UserError(f"{folder / shard} holds no {name}, which {index.name} says is there; {_AGAIN}")
    _check_shapes(folder, config, found)
    return found


def _check_file(path: Path) -> None:
    """Raise UserError if a file is missing, or is only a pointer to its content."""
    if not path.is_file():
        raise UserError(f"{path} is missing; {_AGAIN}")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_POINTERS):
        raise UserError(
            f"{path} is a pointer to the weights and not the weights (cloned without Git LFS?); "
            "run `git lfs pull` there, or fetch the file"
        )


def safetensors_shapes(path: Path) -> Shapes:
    """Return the shapes of a safetensors file, by its header: its length (8 bytes, little-endian), then JSON.

    Raises:
        UserError: if the file is cut or damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            raise UserError(f"{path} has {size:,} bytes and is not a whole safetensors file; {_AGAIN}")
        text = file.read(length)
    try:
        header = json.loads(text)
        spans = [_span(name, entry) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not safetensors: its header cannot be read; {_AGAIN}") from error
    end = 0
    for first, last, _, _ in sorted(spans):
        if first != end:
            raise UserError(f"{path} is damaged: its tensors overlap or leave gaps at byte {end:,}; {_AGAIN}")
        end = last
    if (whole := 8 + length + end) != size:
        raise UserError(f"{path} has {size:,} bytes and its header says {whole:,}: it was cut or changed; {_AGAIN}")
    return {name: shape for _, _, name, shape in spans}


def _span(name: str, entry: dict[str, Any]) -> tuple[int, int, str, tuple[int, ...]]:
    """Return first byte, last byte, name and shape of a tensor; raise ValueError where they contradict each other."""
    (first, last), shape = entry["data_offsets"], tuple(entry["shape"])
    whole = all(type(number) is int and number >= 0 for number in (first, last, *shape))
    if not whole or last - first != math.prod(shape) * _BYTES[entry["dtype"]]:
        raise ValueError(name)
    return first, last, name, shape


def _check_pickle(path: Path) -> Shapes:
    """Return {}; raise UserError unless a file is a whole archive of torch.save that only makes tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if any(archive.getinfo(inner).file_size > _LARGEST_HEADER for inner in pickled):
                raise ValueError("its table of contents is too large")
            called = {name for inner in pickled for name in _called(archive.read(inner))}
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, IndexError, KeyError) as error:
        raise UserError(
            f"{path} is not a whole archive of torch.save ({str(error)[:80]}); {_AGAIN}, or as safetensors"
        ) from error
    if not pickled:
        raise UserError(f"{path} holds no weights of torch.save; {_AGAIN}, or as safetensors")
    if other := sorted(name for name in called - _CALLED if not _is_storage(name)):
        raise UserError(
            f"{path} is a pickle that would call {other[0].replace(' ', '.')!r:.100}, which is no tensor; "
            "give the weights as safetensors, from a source that you trust"
        )
    return {}


def _is_storage(name: str) -> bool:
    """Return whether a name is torch's of a kind of tensor data: `torch FloatStorage`."""
    module, _, kind = name.partition(" ")
    return module in ("torch", "torch.storage") and kind.endswith("Storage")


def _called(pickled: bytes) -> Iterator[str]:
    """Yield what a pickle would import, `module name`, without running it."""
    for code, value, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL":
            yield str(value)
        elif code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):  # torch.save writes none of them
            yield f"pickle {code.name}"


def _check_shapes(folder: Path, config: Mapping[str, Any], found: Shapes) -> None:
    """Raise UserError if a tensor contradicts `config.json`, or there are more or fewer blocks than it says."""
    read = read_parts(config)
    if not found or "blocks" not in read:
        return
    # Published files have the names of the whole model, or of its decoder: `model.layers.0`, or `layers.0`.
    own = {_without_first(name): name for name in found} | {name: name for name in found}
    for name, wanted in expected_shapes(config):
        there = own.get(name) or own.get(_without_first(name))
        if there is not None and found[there] != wanted:
            raise UserError(
                f"{folder}: {there} is {list(found[there])} but config.json says {list(wanted)}; "
                "copy both from the same model"
            )
    blocks = re.compile(rf"(?:^|\.){re.escape(_without_first(read['blocks']))}\.(\d+)\.")
    numbers = {int(match[1]) for name in found if (match := blocks.search(name))}
    if (layers := read.get("num_layers")) is not None and numbers != set(range(layers)):
        raise UserError(
            f"{folder}: config.json says {layers} blocks and the weights have {len(numbers)}; copy both from one model"
        )


def _without_first(name: str) -> str:
    """Return a module path without its first part."""
    return name.partition(".")[2]
