"""Choice of the files of a repository that a run reads: pure functions of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from layerfit.files.dataset_folder import published
from layerfit.files.model_folder import is_metadata

_WEIGHTS = (
    (r"model\.safetensors", None),
    (r"model-\d+-of-\d+\.safetensors", "model.safetensors.index.json"),
    (r"pytorch_model\.bin", None),
    (r"pytorch_model-\d+-of-\d+\.bin", "pytorch_model.bin.index.json"),
)
"""Formats of weights in the order of transformers' search, each with its index."""
_CARD = "README.md"


def model_files(names: Iterable[str], *, weights: bool) -> list[str]:
    """Return a model's configuration, tokenizer and, with `weights`, the weights in the format that would be loaded.

    Copies in other formats (GGUF, ONNX, Flax, `original/`, another precision) are left out. The list has no weights if
    transformers would load none.
    """
    names = sorted(names)
    out = [name for name in names if is_metadata(name)]
    if weights:
        kinds = ([n for n in names if re.fullmatch(p, n)] + [n for n in names if n == index] for p, index in _WEIGHTS)
        out += next((found for found in kinds if any(not name.endswith(".json") for name in found)), [])
    return sorted(out)


def has_weights(names: Iterable[str]) -> bool:
    """Return whether a list of files holds weights."""
    return any(re.fullmatch(pattern, name) for name in names for pattern, _ in _WEIGHTS)


def dataset_files(
    names: Iterable[str], configs: list[dict[str, Any]], subsets: tuple[str, ...] | None
) -> tuple[list[str], list[str]]:
    """Return a data set's card and data files, and the subsets that have none.

    Args:
        names: all files of the repository.
        configs: from its card, the files of each subset. Without them a subset is a folder, as for `data_files`.
        subsets: those read; None = all, and if there are no data files at all, `default` is returned as missing.
    """
    names = sorted(names)
    data, card = published(names), [name for name in names if name == _CARD]
    if subsets is None:
        return [*card, *data], [] if data else ["default"]
    named = [config for config in configs if isinstance(config.get("config_name"), str) and "data_files" in config]
    patterns = {config["config_name"]: _patterns(config["data_files"]) for config in named}
    found = {
        subset: [name for name in data if any(_matches(name, p) for p in patterns.get(subset, []))]
        if patterns
        else [name for name in data if name.startswith(f"{subset}/")]
        for subset in subsets
    }
    chosen = sorted({name for listed in found.values() for name in listed})
    return [*card, *chosen], [subset for subset, listed in found.items() if not listed]


def _patterns(files: Any) -> list[str]:
    """Return the patterns of a card's `data_files`: a string, a list of strings, or splits with a `path` each.

    What else somebody writes there names no file.
    """
    if isinstance(files, str):
        return [files]
    if isinstance(files, dict):
        return (
            _patterns(files["path"]) if "path" in files else [p for inner in files.values() for p in _patterns(inner)]
        )
    return [pattern for entry in files for pattern in _patterns(entry)] if isinstance(files, list) else []


def _matches(name: str, pattern: str) -> bool:
    pattern = pattern.removeprefix("./")
    return fnmatchcase(name, pattern) or ("**/" in pattern and fnmatchcase(name, pattern.replace("**/", "")))
