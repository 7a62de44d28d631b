"""Which files of a dataset's folder hold which split.

A folder has the layout of a dataset repository: splits by its README's `configs`, else by file names
(`train-00000-of-00001.parquet`, `train.jsonl`, `train.jsonl.gz`) in the folder itself, in `data/`, or in one named
after the subset, else by subfolders named after the splits (`<subset>/train/0000.parquet`, the hub's Parquet versions).
Files whose names contain no split are `train`, as on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from layerfit.errors import UserError
from layerfit.files.dataset_card import Subset, matching, subsets_of
from layerfit.files.paths import check_kind, inside

_TEXT = ("jsonl", "ndjson", "json", "csv", "tsv")
FORMATS = ("parquet", *_TEXT)
"""Extensions of data files, in any case; all but Parquet also with `.gz` behind."""
SHOWN = ".parquet, .jsonl (or .ndjson), .json, .csv or .tsv, the last five also as .gz"
_ABOUT = ("dataset_infos.json", "dataset_dict.json", "state.json")
"""Metadata files beside the data."""
_PIECE = re.compile(r"-\d+-of-\d+(-[0-9a-f]{16})?$")
_SPLIT = re.compile(r"(^|[-._ ])(train(ing)?|test(ing)?|val(id|idation)?|dev|eval(uation)?)(?![a-z])", re.IGNORECASE)


def format_of(name: str) -> str | None:
    """Return the format of a data file by its name, None if it is no data file."""
    plain = name.lower()
    packed = plain.endswith(".gz")
    found = plain.removesuffix(".gz").rpartition(".")[2]
    return None if found not in FORMATS or (packed and found == "parquet") else found


def is_data(name: str) -> bool:
    """Return whether a file (given by its path in a repository) is a data file."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return format_of(path.name) is not None and path.name not in _ABOUT and not hidden


def published(names: Iterable[str]) -> list[str]:
    """Return the data files among a repository's: CSV only without others, which often hold the same rows."""
    data = [name for name in names if is_data(name)]
    others = [name for name in data if format_of(name) not in ("csv", "tsv")]
    return others or data


def _stem(path: Path) -> str:
    """Return a data file's name without its extension (`.jsonl.gz` counts as one)."""
    return re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE).rpartition(".")[0]


def data_files(source: Path, subset: str | None = None) -> dict[str, list[Path]]:
    """Return the data files of every split of a dataset's folder (or of a single file, as the split `train`).

    Raises:
        UserError: if the folder has no data files or no such subset, its README is malformed, or a split has files of
            two formats.
    """
    check_kind("dataset.path", source)
    if source.is_file():
        return {"train": [source]}
    subsets = subsets_of(source)
    try:
        splits = _by_card(source, subsets, subset) if subsets else _by_name(source, subset)
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror or error}") from error
    if not splits:
        raise UserError(f"no files {SHOWN} for subset={subset} in {source}; is the copy complete?")
    for split, paths in splits.items():
        _check_one_format(split, paths)
    return splits


def _check_one_format(split: str, paths: list[Path]) -> None:
    """Raise UserError if a split has files of two formats, or one both plain and compressed: rows would count twice."""
    first = paths[0]
    for path in paths[1:]:
        same = format_of(path.name) == format_of(first.name)
        plain = path.with_name(path.name.removesuffix(".gz"))
        if not same or (plain != path and plain in paths):
            other = first if not same else plain
            raise UserError(
                f"{other} and {path.name} are two formats of the split {split!r}, whose rows would count twice; "
                "delete one, or name a file with dataset.path"
            )


def _by_card(source: Path, subsets: list[Subset], wanted: str | None) -> dict[str, list[Path]]:
    names = [subset.name for subset in subsets]
    default = next((subset.name for subset in subsets if subset.default), None)
    default = default or ("default" if "default" in names else names[0] if len(names) == 1 else None)
    if (chosen := wanted or default) not in names:
        raise UserError(f"{source} has no subset {chosen}; use one of: {', '.join(names)}")
    subset = subsets[names.index(chosen)]
    if subset.patterns is None:
        return _by_name(source / subset.folder, None)
    splits: dict[str, list[Path]] = {}
    for split, patterns in subset.patterns.items():
        found = {path: None for pattern in patterns for path in matching(source, pattern) if is_data(path.name)}
        splits[split] = sorted(found)
    return {name: paths for name, paths in splits.items() if paths}


def _by_name(source: Path, subset: str | None) -> dict[str, list[Path]]:
    folders = [inside(source, subset, "dataset.subset")] if subset else [source, source / "data", source / "default"]
    paths = next((found for folder in folders if (found := _files(folder))), [])
    if not paths:
        inner = [folder for base in folders[-1:] if base.is_dir() for folder in sorted(base.iterdir())]
        return {folder.name: found for folder in inner if (found := _files(folder))}
    if not any(_SPLIT.search(_stem(path)) for path in paths):
        return {"train": paths}
    splits: dict[str, list[Path]] = {}
    for path in paths:
        splits.setdefault(_PIECE.sub("", _stem(path)), []).append(path)
    return splits


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_data(path.name)) if folder.is_dir() else []
