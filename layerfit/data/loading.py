"""The way in: a dataset's configuration to examples, held-out examples, and a card that says what they are."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from layerfit.data.batches import Batch, collate
from layerfit.data.packing import first_fit
from layerfit.data.sources import Row, read_rows
from layerfit.data.templates import Turn, exchanges, turns
from layerfit.data.tokenise import Example, tokenise
from layerfit.errors import UserError
from layerfit.hub import DATASETS, origin
from layerfit.record import DataCard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from layerfit.schema import DatasetConfig, HubConfig, TrainingConfig

HELD_OUT = "held out"
_QUANTILES = (0, 0.5, 0.9, 1)


@dataclass(frozen=True)
class FineTuningData:
    """What a run trains on and what it is validated on.

    rows: examples of each training row, by index; one each unless packed.
    sources: where the data was found (`hub.origin`), by hub id.
    """

    train: list[Example]
    validation: list[Example]
    card: DataCard
    rows: list[tuple[int, ...]]
    packed: bool
    pad_id: int
    sources: dict[str, str]

    @property
    def num_rows(self) -> int:
        """Rows to order: examples, or packed rows."""
        return len(self.rows)

    def batch(self, indices: list[int]) -> Batch:
        """Return training rows as a micro-batch."""
        rows = [[self.train[i] for i in self.rows[index]] for index in indices]
        return collate(rows, self.pad_id, packed=self.packed)

    def validation_batch(self, indices: list[int]) -> Batch:
        """Return held-out examples as a micro-batch; never packed."""
        return collate([[self.validation[i]] for i in indices], self.pad_id, packed=False)

    def validation_batches(self, size: int) -> list[Batch]:
        """Return all held-out examples in micro-batches of `size`; the last may be smaller."""
        number = len(self.validation)
        return [self.validation_batch(list(range(i, min(i + size, number)))) for i in range(0, number, size)]


def fingerprint(read: list[list[Turn]]) -> str:
    """Return the hash of the rows' text in file order: of what is read from them, whatever file holds them."""
    digest = hashlib.blake2s(digest_size=8)
    for row in read:
        digest.update(json.dumps([[t.request, t.context, t.answer] for t in row]).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def complete(dataset: DatasetConfig, num_rows: int, found: str) -> bool | None:
    """Return whether the rows are the published ones; None if nothing is pinned."""
    if dataset.fingerprint is not None:
        return found == dataset.fingerprint
    return None if dataset.num_rows is None else num_rows == dataset.num_rows


def hold_out(num_rows: int, num_validation: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the rows to train on, in file order, and those held out: the last of a seeded shuffle."""
    shuffled = list(range(num_rows))
    random.Random(f"validation/{seed}").shuffle(shuffled)
    held_out = shuffled[num_rows - num_validation :]
    taken = set(held_out)
    return [i for i in range(num_rows) if i not in taken], held_out


def _split(
    dataset: DatasetConfig, rows: list[Row], hub: HubConfig
) -> tuple[list[list[Turn]], list[list[Turn]], list[list[Turn]]]:
    """Return all turns of the training split in file order, those that train, and those held out."""
    read = [turns(row, dataset.form) for row in rows]
    if dataset.validation_split is not None:
        held_out = read_rows(dataset, dataset.validation_split, hub)
        return read, read, [turns(row, dataset.form) for row in held_out]
    if dataset.num_validation >= len(read):
        raise UserError(f"dataset.num_validation={dataset.num_validation} leaves nothing of {len(read)} rows; lower it")
    kept, out = hold_out(len(read), dataset.num_validation, dataset.seed or 0)
    return read, [read[i] for i in kept], [read[i] for i in out]


def load_data(
    dataset: DatasetConfig, training: TrainingConfig, hub: HubConfig, tokenizer: PreTrainedTokenizerBase
) -> FineTuningData:
    """Return the data of a run.

    Raises:
        UserError: if the data cannot be found or read, or no example is left.
    """
    rows = read_rows(dataset, dataset.split, hub)
    read, to_train, to_validate = _split(dataset, rows, hub)

    def examples(some: list[list[Turn]]) -> tuple[list[Example], dict[str, int]]:
        written = [exchanges(row, dataset.template) for row in some]
        return tokenise(written, tokenizer, training.max_length, loss_on_prompt=training.loss_on_prompt)

    train, dropped = examples(to_train)
    validation, _ = examples(to_validate)
    if not train:
        raise UserError(f"dataset={dataset.name}: none of {len(rows)} rows has anything to learn ({dropped})")
    if len(read) > len(to_train):
        dropped |= {HELD_OUT: len(read) - len(to_train)}
    packed = training.packing
    lengths = [len(example) for example in train]
    return FineTuningData(
        train=train,
        validation=validation,
        card=_card(dataset, read, train, dropped),
        rows=first_fit(lengths, training.max_length) if packed else [(i,) for i in range(len(train))],
        packed=packed,
        pad_id=tokenizer.pad_token_id,
        sources={dataset.id: origin(DATASETS, dataset.id, hub, dataset.path, dataset.revision)},
    )


def _card(dataset: DatasetConfig, read: list[list[Turn]], train: list[Example], dropped: dict[str, int]) -> DataCard:
    found = fingerprint(read)
    lengths = np.array([len(example) for example in train])
    quantiles = np.quantile(lengths, _QUANTILES, method="higher")
    return DataCard(
        rows=len(read),
        kept=len(train),
        dropped=dropped,
        truncated=sum(example.truncated for example in train),
        fingerprint=found,
        complete=complete(dataset, len(read), found),
        length_quantiles={f"{q:g}": int(value) for q, value in zip(_QUANTILES, quantiles, strict=True)},
        loss_token_share=round(sum(example.num_targets for example in train) / int(lengths.sum()), 6),
    )
