"""What the data of a run was: for its record, and in words for its log."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from layerfit.data.templates import Turn
from layerfit.data.tokenise import Example
from layerfit.records.record import DataCard

if TYPE_CHECKING:
    from layerfit.config.schema import DatasetConfig

_QUANTILES = (0, 0.5, 0.9, 1)


def fingerprint(read: list[list[Turn]]) -> str:
    """Return the hash of the rows' text in file order: of what is read from them, whatever file holds them."""
    digest = hashlib.blake2s(digest_size=8)
    for row in read:
        texts = [[t.request, t.context, t.answer, *([t.system] if t.system else [])] for t in row]
        digest.update(json.dumps(texts).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def complete(dataset: DatasetConfig, num_rows: int, found: str) -> bool | None:
    """Return whether the rows are the published ones; None if nothing is pinned."""
    if dataset.fingerprint is not None:
        return found == dataset.fingerprint
    return None if dataset.num_rows is None else num_rows == dataset.num_rows


def make_card(
    dataset: DatasetConfig,
    how: tuple[str, str],
    num_rows: int,
    found: str,
    train: list[Example],
    dropped: dict[str, int],
) -> DataCard:
    """Return the card of the training examples. `how`: form and template, as taken; `found`: the rows' fingerprint."""
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
    )


def describe(card: DataCard, dataset: DatasetConfig, origin: str) -> str:
    """Return a card as lines for a run's log."""
    dropped = "".join(f", {number:,} {reason}" for reason, number in card.dropped.items())
    pinned = (dataset.fingerprint and f"hash {dataset.fingerprint}") or f"{dataset.num_rows or 0:,} rows"
    published = {True: "the published data", False: f"NOT the published data ({pinned})", None: "nothing is pinned"}
    quantiles = ", ".join(f"{value:,} at {q}" for q, value in card.length_quantiles.items())
    return "\n".join(
        (
            f"data: {dataset.name} ({origin}), form {card.form}, template {card.template}; {published[card.complete]}",
            f"  rows: {card.rows:,} read, {card.kept:,} kept{dropped}; hash {card.fingerprint}",
            f"  examples: {card.examples:,}, {card.truncated:,} of them cut; tokens by quantile: {quantiles}",
            f"  loss on {card.loss_token_share:.1%} of the tokens",
        )
    )
