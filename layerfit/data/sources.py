"""Rows of a dataset: read from the files of a local folder (`layerfit.files.dataset_folder`), or from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerfit.data import reading
from layerfit.data.json_rows import RawRow
from layerfit.data.reading import Located, RowPlace, read_parquet
from layerfit.errors import UserError
from layerfit.files.dataset_folder import data_files, format_of

if TYPE_CHECKING:
    from datasets import DatasetDict

    from layerfit.config.schema import DatasetConfig, HubConfig


class Part(NamedTuple):
    """The data that a task reads. repo: None = not known. subset, split: None = any."""

    task: str
    repo: str | None
    subset: str | None = None
    split: str | None = None


def read_located(dataset: DatasetConfig, split: str, hub: HubConfig) -> list[Located]:
    """Return the rows of a split with their places, in file order.

    Raises:
        UserError: if the data, the split or its rows are missing, or a file cannot be read.
    """
    from layerfit.models.hub import dataset_source

    source = dataset_source(dataset.id, hub, dataset.path, dataset.revision)
    if isinstance(source, str):
        rows = [Located(row, RowPlace(None, number)) for number, row in enumerate(_from_hub(source, dataset, split), 1)]
    else:
        splits = data_files(source, dataset.subset)
        if split not in splits:
            raise UserError(
                f"no split {split!r} of dataset={dataset.name} in {source}; use one of: {', '.join(splits)}"
            )
        rows = [row for path in splits[split] for row in reading.read_located(path)]
    if not rows:
        raise UserError(f"dataset={dataset.name}: split {split!r} of {source} has no rows")
    return rows


def read_rows(dataset: DatasetConfig, split: str, hub: HubConfig) -> list[RawRow]:
    """Return the rows of a split, in file order, as `read_located`."""
    return [found.row for found in read_located(dataset, split, hub)]


def _from_hub(repo: str, dataset: DatasetConfig, split: str) -> list[RawRow]:
    from datasets import load_dataset

    try:
        rows = load_dataset(repo, dataset.subset, split=split, revision=dataset.revision, trust_remote_code=False)
        return rows.to_list()
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
        if format_of(paths[0].name) == "parquet":
            out[split] = Dataset(InMemoryTable(pyarrow.concat_tables([read_parquet(path) for path in paths])))
        else:
            out[split] = Dataset.from_list([row for path in paths for row in reading.read_file(path)])
    return DatasetDict(out)
