"""Checks of a run's data before anything expensive is imported or loaded: each failure is one line with its fix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layerfit.data.chat import CHAT
from layerfit.data.forms import RUNNING, resolve, turns
from layerfit.data.loading import answers_in, check_held_out, hold_out, num_held_out, read_split
from layerfit.data.reading import count_rows, first_row
from layerfit.data.rehearse import rehearse
from layerfit.data.turns import Turn
from layerfit.errors import UserError
from layerfit.files.dataset_folder import data_files
from layerfit.models.hub import dataset_source, model_source

if TYPE_CHECKING:
    from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig

_READ_WHOLE = 16 * 2**20
"""Bytes: files up to this size are read in less than a second."""
_MOST_SHAPES = 50
Probes = tuple[str, int] | None
"""Where a method's probe batches come from (train or validation), and the rows of one."""


def _is_small(paths: list[Path]) -> bool:
    return sum(path.stat().st_size for path in paths) <= _READ_WHOLE


def check_dataset(dataset: DatasetConfig, hub: HubConfig, probes: Probes = None) -> None:
    """Raise UserError if local data lacks a split, or its first row does not have what `dataset.form` reads.

    Of a small file of the user's own every row is read: nobody has looked at it before.
    """
    source = dataset_source(dataset.id, hub, dataset.path, dataset.revision)
    if isinstance(source, str):
        return
    splits = data_files(source, dataset.subset)
    for key, split in (("split", dataset.split), ("validation_split", dataset.validation_split)):
        if split is not None:
            if split not in splits:
                raise UserError(f"dataset.{key}={split} is not in {source}; use one of: {', '.join(splits)}")
            _check_first(dataset, splits[split], f"split {split!r} of {source}")
    if dataset.path is not None and _is_small(splits[dataset.split]):
        _check_rows(dataset, hub, splits, probes)
    elif dataset.num_validation and dataset.validation_split is None:
        number = count_rows(splits[dataset.split], _READ_WHOLE)
        if number is not None:
            check_held_out(dataset.num_validation, number)


def _check_first(dataset: DatasetConfig, paths: list[Path], where: str) -> None:
    found = next(((path, row) for path in paths if (row := first_row(path)) is not None), None)
    if found is None:
        raise UserError(f"dataset={dataset.name}: {where} has no rows; is the copy whole?")
    path, row = found
    try:
        turns(row, resolve(dataset.form, dataset.template, row)[0])
    except UserError as error:
        raise UserError(f"{path}, first row: {error}") from error


def _check_rows(dataset: DatasetConfig, hub: HubConfig, splits: dict[str, list[Path]], probes: Probes) -> None:
    """Read every row, those held out too, and count those with something to learn."""
    source = read_split(dataset, dataset.split, hub)
    number = num_held_out(dataset, source)
    name = dataset.validation_split
    if name is not None:
        if not _is_small(splits[name]):
            return
        held_out = read_split(dataset, name, hub).read
    else:
        held_out = [source.read[i] for i in hold_out(len(source.read), number, dataset.resolved_seed)[1]]
    if held_out and not (learnt := answers_in(held_out)):
        which = "held-out rows" if name is None else f"rows of dataset.validation_split={name}"
        raise UserError(f"none of the {len(held_out)} {which} has anything to learn; give others, or leave them out")
    if held_out and probes is not None and probes[0] == "validation" and source.how[0] not in RUNNING:
        check_probe_size(probes[1], learnt)


def check_probe_size(size: int, number: int) -> None:
    """Raise UserError if a probe batch cannot be drawn from the rows that there are."""
    if size > number:
        raise UserError(
            f"a probe batch of {size} rows cannot be drawn from the {number} held-out rows with something to learn; "
            "raise dataset.num_validation, or lower method.*_batch_size"
        )


def check_template(dataset: DatasetConfig, model: ModelConfig, hub: HubConfig) -> None:
    """Raise UserError if `dataset.template=chat` and a local model's chat template is missing or cannot write the rows.

    The first row of every shape of conversation is tried; of a large file the first row.
    """
    folder = model_source(model, hub)
    if dataset.template != CHAT or isinstance(folder, str):
        return
    path = folder / "tokenizer_config.json"
    inside = path.is_file() and '"chat_template"' in path.read_text(encoding="utf-8", errors="replace")
    if not inside and not any((folder / f"chat_template.{kind}").is_file() for kind in ("jinja", "json")):
        raise UserError(
            f"dataset.template=chat but model={model.name} has no chat template (a base model?); "
            "set dataset.template=alpaca, or use an instruction-tuned model"
        )
    places, rows = _shapes(dataset, hub)
    if rows and (found := rehearse(folder, rows)) is not None:
        number, said = found
        raise UserError(f"{places[number]}: {said}" if number >= 0 else said)


def _shapes(dataset: DatasetConfig, hub: HubConfig) -> tuple[list[str], list[list[Turn]]]:
    """Return the first row of every shape of conversation, with its place; nothing if the data is not local."""
    source = dataset_source(dataset.id, hub, dataset.path, dataset.revision)
    if isinstance(source, str):
        return [], []
    paths = data_files(source, dataset.subset).get(dataset.split, [])
    if not _is_small(paths):
        row = first_row(paths[0]) or {}
        return [f"{paths[0]}, first row"], [turns(row, resolve(dataset.form, dataset.template, row)[0])]
    split = read_split(dataset, dataset.split, hub)
    found = {_shape(row): number for number, row in reversed(list(enumerate(split.read))) if row}
    chosen = sorted(found.values())[:_MOST_SHAPES]
    return [str(split.places[number]) for number in chosen], [split.read[number] for number in chosen]


def _shape(row: list[Turn]) -> tuple[tuple[bool, bool, bool, bool], ...]:
    return tuple((bool(t.system), bool(t.request), bool(t.context), t.trained) for t in row)
