"""Whether a tokenizer's ids have rows in the model's embedding, by the text of its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from layerfit.anatomy import read_parts
from layerfit.errors import UserError
from layerfit.models.metadata import read_object


def num_rows(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the rows of a model's embedding: of its weights, or else by its `config.json`; None if neither says."""
    path = read_parts(config).get("embedding")
    shape = shapes.get(f"{path}.weight")
    return shape[0] if shape else config.get("vocab_size")


def check_ids(folder: Path, rows: int | None) -> None:
    """Raise UserError if `tokenizer.json` has a token whose id is beyond an embedding of so many rows."""
    path = folder / "tokenizer.json"
    if rows is None or not path.exists():
        return
    about = path.stat()
    highest, token = _highest(path, about.st_mtime_ns, about.st_size)
    if highest >= rows:
        raise UserError(
            f"{path} gives {token[:80]!r} the id {highest} and the model's embedding has {rows} rows; "
            "copy tokenizer and model from the same place, or resize the embedding (resize_token_embeddings)"
        )


@lru_cache(maxsize=16)
def _highest(path: Path, changed_ns: int, size: int) -> tuple[int, str]:  # noqa: ARG001 - they identify the content
    """Return the highest id of a tokenizer and its token. Cached: a large file takes a fifth of a second."""
    return max(_ids(read_object(path), path), default=(-1, ""))


def _ids(tokenizer: Mapping[str, Any], path: Path) -> Iterator[tuple[int, str]]:
    """Yield ids and tokens: those of the vocabulary, a mapping or (unigram) a list in order, and those added."""
    try:
        vocabulary = tokenizer["model"]["vocab"]
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((v[0], i) for i, v in enumerate(vocabulary))
        added = ((token["content"], token["id"]) for token in tokenizer.get("added_tokens") or [])
        for token, number in (*pairs, *added):
            if type(number) is not int or not isinstance(token, str):
                raise TypeError(token)
            yield number, token
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is no tokenizer: it lacks a vocabulary of tokens and ids; copy it again") from error
