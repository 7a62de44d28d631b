"""The entry point: from a dataset's configuration to training examples, held-out examples and a data card."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from layerfit.data.batches import Batch, collate
from layerfit.data.cache import MIN_CHARACTERS, cached, key
from layerfit.data.card import describe, fingerprint, make_card, unknown_share
from layerfit.data.chat import CHAT, chat_exchanges, check_chat, holds_greeting
from layerfit.data.conversation import GREETING
from layerfit.data.forms import RUNNING, resolve, turns
from layerfit.data.own_tokens import SpecialWords, without_own
from layerfit.data.packing import first_fit
from layerfit.data.reading import RowPlace
from layerfit.data.sources import read_located
from layerfit.data.templates import Exchange, exchanges
from layerfit.data.tokenise import Example, Tokenised, pieces, sift, tokenise_rows
from layerfit.data.turns import Notes, Turn
from layerfit.errors import UserError
from layerfit.models.hub import DATASETS, origin
from layerfit.records.record import DataCard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from layerfit.config.schema import DatasetConfig, HubConfig, TrainingConfig

HELD_OUT = "held out"


@dataclass(frozen=True)
class FineTuningData:
    """Training and validation data of a run.

    rows: indices of the examples in each training row; one each unless packed.
    sources: origin of the data (`hub.origin`), by hub id.
    about: the card as text.
    """

    train: list[Example]
    validation: list[Example]
    card: DataCard
    rows: list[tuple[int, ...]]
    packed: bool
    pad_id: int
    sources: dict[str, str]
    about: str = ""

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


@dataclass(frozen=True)
class Split:
    """A split as read.

    how: form and template (resolved); num_rows: in the files; read: the turns of each row, places: where it stands;
    hash: of the turns; notes: what was changed or not read.
    """

    how: tuple[str, str]
    num_rows: int
    read: list[list[Turn]]
    places: list[RowPlace]
    hash: str
    notes: Notes

    def files(self) -> dict[str, int]:
        """Return the number of rows of each file, by its name; {} for rows of the hub."""
        return dict(Counter(place.path.name for place in self.places if place.path is not None))


def hold_out(num_rows: int, num_validation: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the rows to train on, in file order, and those held out: the last of a seeded shuffle."""
    shuffled = list(range(num_rows))
    random.Random(f"validation/{seed}").shuffle(shuffled)
    held_out = shuffled[num_rows - num_validation :]
    taken = set(held_out)
    return [i for i in range(num_rows) if i not in taken], held_out


def _one_text(read: list[list[Turn]]) -> list[list[Turn]]:
    """Return lines as one document; each ends with a line break, as the empty rows between paragraphs do."""
    lines = (turn.answer for row in read for turn in row)
    return [[Turn("", "".join(line if line.endswith("\n") else f"{line}\n" for line in lines))]]


def read_split(dataset: DatasetConfig, split: str, hub: HubConfig) -> Split:
    """Return a split as turns, in file order.

    Raises:
        UserError: if it is missing or empty, or a row lacks a field of its form (the first one is named).
    """
    rows = read_located(dataset, split, hub)
    form, template = resolve(dataset.form, dataset.template, rows[0].row)
    read, notes = [], Notes()
    for found in rows:
        try:
            read.append(turns(found.row, form, notes))
        except UserError as error:
            raise UserError(f"{found.place}: {error} (split {split} of dataset={dataset.name})") from error
    read = _one_text(read) if form == "lines" else read
    return Split((form, template), len(rows), read, [found.place for found in rows], fingerprint(read), notes)


def fit_to(source: Split, tokenizer: PreTrainedTokenizerBase) -> Split:
    """Return a split as this tokenizer takes it: without bos and eos tokens of its own, nor greetings that its chat
    template cannot write; both are noted.

    Raises:
        UserError: if `dataset.template=chat` and there is no chat template.
    """
    read, changes = without_own(source.read, SpecialWords(tokenizer))
    changes += source.notes.changes
    if source.how[1] == CHAT:
        check_chat(tokenizer)
        greeted = [bool(row) and not row[0].asked and not row[0].trained for row in read]
        if any(greeted) and not holds_greeting(tokenizer):
            read = [row[1:] if greets else row for row, greets in zip(read, greeted, strict=True)]
            changes["greeting dropped: the chat template must open with a request"] = sum(greeted)
            del changes[GREETING]
    return replace(source, read=read, notes=Notes(changes, source.notes.unread))


def num_held_out(dataset: DatasetConfig, source: Split) -> int:
    """Return how many rows of the training split are held out.

    Raises:
        UserError: if no row would be left to train on, or no row has an answer.
    """
    number = 0 if dataset.validation_split is not None else dataset.num_validation
    check_held_out(number, len(source.read))
    if not answers_in(source.read):
        raise UserError(
            f"dataset={dataset.name}: all responses of its {source.num_rows} rows are empty; check the file"
        )
    return number


def check_held_out(number: int, num_rows: int) -> None:
    """Raise UserError if holding out `number` rows leaves none to train on."""
    if number >= num_rows:
        raise UserError(f"dataset.num_validation={number} leaves none of {num_rows} rows to train on; lower it")


def answers_in(read: list[list[Turn]]) -> int:
    """Return the number of rows with something to learn."""
    return sum(any(turn.trained and turn.answer.strip() for turn in row) for row in read)


def _write(source: Split, tokenizer: PreTrainedTokenizerBase) -> list[list[Exchange]]:
    if source.how[1] != CHAT:
        return [exchanges(row, source.how[1]) for row in source.read]
    words, out = SpecialWords(tokenizer), []
    for place, row in zip(source.places, source.read, strict=True):
        try:
            out.append(chat_exchanges(row, tokenizer, words))
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
    return out


def _tokens(
    source: Split, training: TrainingConfig, tokenizer: PreTrainedTokenizerBase, cache: Path | None
) -> list[Tokenised]:
    """Return a split in tokens, row by row (documents uncut), held-out rows included: seeds share a cache."""
    form, template = source.how
    length = None if form in RUNNING else training.max_length
    masked = not training.loss_on_prompt and form not in RUNNING

    def make() -> list[Tokenised]:
        written = _write(source, tokenizer)
        return tokenise_rows(written, tokenizer, length, loss_on_prompt=not masked)

    size = sum(len(t.request) + len(t.context) + len(t.answer) for row in source.read for t in row)
    if cache is None or size < MIN_CHARACTERS:
        return make()
    settings = {"text": source.hash, "form": form, "template": template, "length": length, "masked": masked}
    return cached(cache / f"{key(tokenizer, **settings)}.npz", len(source.read), make)


def _examples(source: Split, rows: list[Tokenised], max_length: int) -> tuple[list[Example], dict[str, int]]:
    examples, dropped = sift(rows)
    return (pieces(examples, max_length) if source.how[0] in RUNNING else examples), dropped


def _sets(
    dataset: DatasetConfig,
    training: TrainingConfig,
    hub: HubConfig,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path | None,
) -> tuple[Split, list[Example], list[Example], dict[str, int]]:
    """Return the training split, its examples, the held-out examples, and the number of dropped rows by reason."""
    source = fit_to(read_split(dataset, dataset.split, hub), tokenizer)
    number = num_held_out(dataset, source)
    tokens = _tokens(source, training, tokenizer, cache)
    kept, out = hold_out(len(tokens), number, dataset.resolved_seed)
    train, dropped = _examples(source, [tokens[i] for i in kept], training.max_length)
    held_out = [tokens[i] for i in out]
    if dataset.validation_split is not None:
        other = fit_to(read_split(dataset, dataset.validation_split, hub), tokenizer)
        held_out = _tokens(other, training, tokenizer, cache)
    validation, _ = _examples(source, held_out, training.max_length)
    return source, train, validation, dropped | ({HELD_OUT: number} if number else {})


def load_data(
    dataset: DatasetConfig,
    training: TrainingConfig,
    hub: HubConfig,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path | None = None,
) -> FineTuningData:
    """Return the data of a run.

    Args:
        dataset: of the run.
        training: of the run: length, packing and loss mask.
        hub: of the run.
        tokenizer: the model's.
        cache: a folder for the tokens of large data sets, shared by later runs; None = no cache.

    Raises:
        UserError: if the data cannot be found or read, or no example is left.
    """
    source, train, validation, dropped = _sets(dataset, training, hub, tokenizer, cache)
    if not train:
        raise UserError(f"dataset={dataset.name}: none of its {source.num_rows} rows can be trained on ({dropped})")
    if not validation and (dataset.num_validation or dataset.validation_split):
        raise UserError(
            f"dataset={dataset.name}: none of the held-out rows has anything to learn; give others, or leave them out"
        )
    packed = training.packing
    lengths = [len(example) for example in train]
    unknown = unknown_share(train, tokenizer)
    card = make_card(dataset, source.how, source.num_rows, source.hash, train, dropped, unknown, source.notes)
    found = origin(DATASETS, dataset.id, hub, dataset.path, dataset.revision)
    return FineTuningData(
        train=train,
        validation=validation,
        card=card,
        rows=first_fit(lengths, training.max_length) if packed else [(i,) for i in range(len(train))],
        packed=packed,
        pad_id=tokenizer.pad_token_id,
        sources={dataset.id: found},
        about=describe(card, dataset, found, source.files()),
    )
