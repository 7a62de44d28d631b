"""The data card of a run: statistics of its data, for its record and its log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from layerfit.data.tokenise import Example
from layerfit.data.turns import Notes, Turn
from layerfit.errors import UserError
from layerfit.records.record import DataCard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from layerfit.config.schema import DatasetConfig

_QUANTILES = (0, 0.5, 0.9, 1)
_MOST_FILES, _MOST_COLUMNS, _LONGEST_NAME = 8, 50, 80
WARN_UNKNOWN, MOST_UNKNOWN = 0.01, 0.5
"""Share of unknown tokens above which the log warns, and above which training is refused."""


def fingerprint(read: list[list[Turn]]) -> str:
    """Return the hash of the rows' text in file order: independent of the file format.

    What most rows lack (a system text, an answer that is context only) enters where it is there.
    """
    digest = hashlib.blake2s(digest_size=8)
    for row in read:
        texts = [
            [t.request, t.context, t.answer, *([t.system] if t.system else []), *([] if t.trained else [0])]
            for t in row
        ]
        digest.update(json.dumps(texts).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def complete(dataset: DatasetConfig, num_rows: int, found: str) -> bool | None:
    """Return whether the rows are the published ones; None if nothing is pinned."""
    if dataset.fingerprint is not None:
        return found == dataset.fingerprint
    return None if dataset.num_rows is None else num_rows == dataset.num_rows


def unknown_share(train: list[Example], tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of unknown tokens.

    A byte-level tokenizer has no unknown token, or sets it to the bos or eos token: then the share is 0. Padding with
    the unknown token does not matter: examples are not padded.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return 0.0
    number = sum(int((example.ids == unknown).sum()) for example in train)
    return round(number / sum(len(example) for example in train), 6)


def check_known(card: DataCard, dataset: str, model: str) -> None:
    """Raise UserError if most training tokens are unknown: there is nothing to learn from them."""
    share = card.unknown_token_share or 0.0
    if share > MOST_UNKNOWN:
        raise UserError(
            f"{share:.0%} of the tokens of dataset={dataset} are unknown to the tokenizer of model={model}, more than "
            f"{MOST_UNKNOWN:.0%}; use a model whose tokenizer covers this data, or data that its tokenizer covers"
        )


def make_card(
    dataset: DatasetConfig,
    how: tuple[str, str],
    num_rows: int,
    found: str,
    train: list[Example],
    dropped: dict[str, int],
    unknown_token_share: float,
    notes: Notes,
) -> DataCard:
    """Return the card of the training examples. how: form and template (resolved); found: the rows' fingerprint."""
    lengths = np.array([len(example) for example in train])
    quantiles = np.quantile(lengths, _QUANTILES, method="higher")
    return DataCard(
        rows=num_rows,
        kept=num_rows - sum(dropped.values()),
        dropped=dropped,
        truncated=sum(example.truncated for example in train),
        fingerprint=found,
        complete=complete(dataset, num_rows, found),
        length_quantiles={f"{q:g}": int(value) for q, value in zip(_QUANTILES, quantiles, strict=True)},
        loss_token_share=round(sum(example.num_targets for example in train) / int(lengths.sum()), 6),
        examples=len(train),
        form=how[0],
        template=how[1],
        unknown_token_share=unknown_token_share,
        unread_columns=_names(notes.unread),
        dropped_turns={reason: number for reason, number in sorted(notes.changes.items()) if number},
    )


def _names(columns: Collection[str]) -> list[str]:
    """Return names of columns for a record: printable, and not more than a reader looks at."""
    names = sorted(_printable(name) for name in columns)
    return names if len(names) <= _MOST_COLUMNS else [*names[:_MOST_COLUMNS], f"and {len(names) - _MOST_COLUMNS} more"]


def _printable(name: str) -> str:
    """Return a name from outside for a line of text."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[:_LONGEST_NAME])
    return plain if len(name) <= _LONGEST_NAME else f"{plain}..."


def describe(card: DataCard, dataset: DatasetConfig, origin: str, files: Mapping[str, int]) -> str:
    """Return a card as lines of text, for a run's log. files: number of rows of each."""
    dropped = "".join(f", {number:,} {reason}" for reason, number in card.dropped.items())
    pinned = (dataset.fingerprint and f"hash {dataset.fingerprint}") or f"{dataset.num_rows or 0:,} rows"
    published = {True: "the published data", False: f"NOT the published data ({pinned})", None: "nothing is pinned"}
    quantiles = ", ".join(f"{value:,} at {q}" for q, value in card.length_quantiles.items())
    share = card.unknown_token_share or 0.0
    unknown = f"{share:.1%} of them unknown to the tokenizer" if share else "all known to the tokenizer"
    warning = f"  warning: {unknown}; they all look the same to the model" if share > WARN_UNKNOWN else None
    listed = [f"{_printable(name)} ({number:,})" for name, number in files.items()]
    more = f" and {len(listed) - _MOST_FILES} more" if len(listed) > _MOST_FILES else ""
    changed = [f"{reason}: {number:,}" for reason, number in (card.dropped_turns or {}).items()]
    lines = (
        f"data: {dataset.name} ({origin}), form {card.form}, template {card.template}; {published[card.complete]}",
        f"  rows: {card.rows:,} read, {card.kept:,} kept{dropped}; hash {card.fingerprint}",
        f"  files (rows): {', '.join(listed[:_MOST_FILES])}{more}" if listed else None,
        f"  changed while reading: {'; '.join(changed)}" if changed else None,
        f"  columns that nobody reads: {', '.join(card.unread_columns)}" if card.unread_columns else None,
        f"  examples: {card.examples:,}, {card.truncated:,} of them cut; tokens by quantile: {quantiles}",
        f"  loss on {card.loss_token_share:.1%} of the tokens; {unknown}",
        warning,
    )
    return "\n".join(line for line in lines if line is not None)
