"""Rows of a dataset: read from the files of a local folder, or from the hub through `datasets`.

A folder has the layout of a dataset repository: splits by its README's `configs`, else by file names
(`train-00000-of-00001.parquet`, `train.jsonl`, `train.jsonl.gz`) in the folder itself, in `data/`, or in one named
after the subset, else by subfolders named after the splits (`<subset>/train/0000.parquet`, the hub's Parquet versions).
Files whose names contain no split are `train`, as on the hub.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import yaml

from layerfit.errors import UserError
from layerfit.files.content import SUFFIXES, is_data

if TYPE_CHECKING:
    from datasets import DatasetDict
    from pyarrow.parquet import ParquetFile

    from layerfit.config.schema import DatasetConfig, HubConfig

RawRow = dict[str, Any]
"""A row as in its file, by column; not yet checked against a form."""
_PIECE = re.compile(r"-\d+-of-\d+(-[0-9a-f]{16})?$")
_SPLIT = re.compile(r"(^|[-._ ])(train(ing)?|test(ing)?|val(id|idation)?|dev|eval(uation)?)(?![a-z])", re.IGNORECASE)


class Part(NamedTuple):
    """The data that a task reads. repo: None = not known. subset, split: None = any."""

    task: str
    repo: str | None
    subset: str | None = None
    split: str | None = None


def _stem(path: Path) -> str:
    """Return a data file's name without its extension (`.jsonl.gz` counts as one)."""
    return path.name.removesuffix(".gz").rpartition(".")[0]


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """Return a README's YAML front matter ({} without one) and its text."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    match = re.match(r"---\n(.*?)\n---\n?(.*)", text, flags=re.DOTALL)
    return ((yaml.safe_load(match[1]) or {}), match[2]) if match else ({}, text)


def data_files(source: Path, subset: str | None = None) -> dict[str, list[Path]]:
    """Return the data files of every split of a dataset's folder (or of a single file, as the split `train`).

    Raises:
        UserError: if the folder has no data files, no such subset, or a file both plain and compressed.
    """
    if source.is_file():
        return {"train": [source]}
    configs = [c for c in card(source)[0].get("configs", []) if "data_files" in c]
    splits = _by_card(source, configs, subset) if configs else _by_name(source, subset)
    if not splits:
        raise UserError(f"no {', '.join(SUFFIXES)} files for subset={subset} in {source}; is the copy complete?")
    for paths in splits.values():
        if twice := [path for path in paths if path.with_name(f"{path.name}.gz") in paths]:
            raise UserError(
                f"{twice[0]} and {twice[0].name}.gz hold the same rows, which would count twice; delete one"
            )
    return splits


def _by_card(source: Path, configs: list[dict[str, Any]], subset: str | None) -> dict[str, list[Path]]:
    names = [c["config_name"] for c in configs]
    default = next((c["config_name"] for c in configs if c.get("default")), None)
    default = default or ("default" if "default" in names else names[0] if len(names) == 1 else None)
    if (wanted := subset or default) not in names:
        raise UserError(f"{source} has no subset {wanted}; use one of: {', '.join(names)}")
    files = configs[names.index(wanted)]["data_files"]
    entries = files if isinstance(files, list) else [{"split": "train", "path": files}]
    splits: dict[str, list[Path]] = {}
    for entry in entries:
        patterns = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
        splits[entry["split"]] = sorted(p for pattern in patterns for p in source.glob(pattern))
    return {name: paths for name, paths in splits.items() if paths}


def _by_name(source: Path, subset: str | None) -> dict[str, list[Path]]:
    folders = [source / subset] if subset else [source, source / "data", source / "default"]
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


def read_file(path: Path) -> list[RawRow]:
    """Return the rows of one file: Parquet, JSON Lines (even if named `.json`), or a JSON list.

    A text file whose name ends with `.gz` is decompressed.

    Raises:
        UserError: if the file does not hold rows, naming it.
    """
    if path.suffix == ".parquet":
        return _parquet(path).read().to_pylist()
    with _opened(path) as file:
        text = file.read()
    by_line = _has_lines(path) or text.lstrip().startswith("{")
    return _rows(path, [line for line in text.split("\n") if line.strip()] if by_line else text)


def _has_lines(path: Path) -> bool:
    """Return whether a file is JSON Lines by its name."""
    return path.name.endswith((".jsonl", ".jsonl.gz"))


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """Open a text file, through gzip if its name ends with `.gz`.

    Raises:
        UserError: during reading, if it is not gzip, is truncated, or is not UTF-8.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file: {error}; copy it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}; convert it") from error


def _rows(path: Path, text: str | list[str]) -> list[RawRow]:
    """Parse a JSON list, or the lines of JSON Lines."""
    try:
        rows = json.loads(text) if isinstance(text, str) else [json.loads(line) for line in text]
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not {path.name.removesuffix('.gz').rpartition('.')[2]}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must hold rows, one JSON object each")
    return rows


def first_row(path: Path) -> RawRow | None:
    """Return the first row of a file without reading the rest (of JSON Lines and Parquet); None if it has no rows."""
    if path.suffix == ".parquet":
        batch = next(_parquet(path).iter_batches(batch_size=1), None)
        return batch.to_pylist()[0] if batch is not None and batch.num_rows else None
    if not _has_lines(path):
        return next(iter(read_file(path)), None)
    with _opened(path) as file:
        line = next((line for line in file if line.strip()), None)
    return None if line is None else _rows(path, [line])[0]


def _parquet(path: Path) -> ParquetFile:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not Parquet: {' '.join(str(error).split())}") from error


def read_rows(dataset: DatasetConfig, split: str, hub: HubConfig) -> list[RawRow]:
    """Return the rows of a split, in file order.

    Raises:
        UserError: if the data, the split or its rows are missing.
    """
    from layerfit.models.hub import dataset_source

    source = dataset_source(dataset.id, hub, dataset.path, dataset.revision)
    if isinstance(source, str):
        rows = _from_hub(source, dataset, split)
    else:
        splits = data_files(source, dataset.subset)
        if split not in splits:
            raise UserError(
                f"no split {split!r} of dataset={dataset.name} in {source}; use one of: {', '.join(splits)}"
            )
        rows = [row for path in splits[split] for row in read_file(path)]
    if not rows:
        raise UserError(f"dataset={dataset.name}: split {split!r} of {source} has no rows")
    return rows


def _from_hub(repo: str, dataset: DatasetConfig, split: str) -> list[RawRow]:
    from datasets import load_dataset

    try:
        return load_dataset(repo, dataset.subset, split=split, revision=dataset.revision).to_list()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # RuntimeError: it has a loading script, which `datasets` refuses
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"dataset={dataset.name}: {repo} from the hub: {said}; or put a copy in hub.mirror") from error


def load_folder(folder: Path, subset: str | None) -> DatasetDict:
    """Return every split of a local dataset folder, in memory, without the `datasets` cache."""
    import pyarrow
    from datasets import Dataset, DatasetDict
    from datasets.table import InMemoryTable

    out = {}
    for split, paths in data_files(folder, subset).items():
        if all(path.suffix == ".parquet" for path in paths):
            out[split] = Dataset(InMemoryTable(pyarrow.concat_tables([_parquet(path).read() for path in paths])))
        else:
            out[split] = Dataset.from_list([row for path in paths for row in read_file(path)])
    return DatasetDict(out)
