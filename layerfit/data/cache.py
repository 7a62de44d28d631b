"""A cache of tokens on disk, so that the runs of a sweep, and the ranks of a run, tokenise a data set once.

A file's name is the hash of everything that determines its content: text, form, template, tokenizer, length, loss
mask, and the source of the tokenising code. So a file is never stale, every seed and rank shares it, and deleting the
folder costs only time. It is written under a temporary name and renamed, so any number of runs may read and write at
once. A file that cannot be read is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerfit.data.tokenise import IGNORE, Example, Tokenised
from layerfit.files.writing import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_CHARACTERS = 500_000
"""Shorter text is not cached: tokenising it takes about a third of a second.

Measured with Mistral's tokenizer on one core: 18 million characters (Alpaca) 10 s, from the cache 1.2 s, most of it
to read and hash the rows; LIMA 1.2 and 0.06 s; the embedded data 0.05 s without the cache.
"""
_CODE = ("templates.py", "chat.py", "own_tokens.py", "tokenise.py", "cache.py")
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def key(tokenizer: PreTrainedTokenizerBase, **settings: Any) -> str:
    """Return the name of a cache file. settings: the text's fingerprint, form, template, length and loss mask."""
    import tokenizers

    digest = hashlib.blake2s(digest_size=16)
    for name in _CODE:
        digest.update((Path(__file__).parent / name).read_bytes())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())  # type: ignore[attr-defined]
    special = [type(tokenizer).__name__, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template]
    digest.update(json.dumps([tokenizers.__version__, special, settings], sort_keys=True).encode())
    return digest.hexdigest()


def pack(rows: list[Tokenised]) -> bytes:
    """Return rows as the content of a file: all tokens in one array, split by lengths; a dropped row has length 0."""
    examples = [row for row in rows if isinstance(row, Example)]
    empty = np.zeros(0, np.int32)
    file = io.BytesIO()
    np.savez(
        file,
        ids=np.concatenate([empty, *(example.ids for example in examples)]),
        is_target=np.concatenate([empty, *(example.labels for example in examples)]) != IGNORE,
        lengths=np.array([0 if isinstance(row, str) else len(row) for row in rows], np.int64),
        truncated=np.array([not isinstance(row, str) and row.truncated for row in rows], bool),
        reasons=np.array([row if isinstance(row, str) else "" for row in rows], np.str_),
    )
    return file.getvalue()


def unpack(content: bytes, num_rows: int) -> list[Tokenised]:
    """Return the rows of a file.

    Raises:
        ValueError, KeyError, zipfile.BadZipFile: if it is damaged (the archive has checksums).
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        ids, is_target, lengths, truncated, reasons = (
            file[name] for name in ("ids", "is_target", "lengths", "truncated", "reasons")
        )
    if len(lengths) != num_rows or lengths.sum() != len(ids) or len(is_target) != len(ids):
        raise ValueError("its arrays do not fit together or the number of rows")
    labels = np.where(is_target, ids, IGNORE).astype(np.int32)
    ends = np.cumsum(lengths)
    rows: list[Tokenised] = []
    for start, end, cut, reason in zip((ends - lengths).tolist(), ends.tolist(), truncated, reasons, strict=True):
        rows.append(Example(ids[start:end], labels[start:end], bool(cut)) if end > start else str(reason))
    return rows


def cached(path: Path, num_rows: int, make: Callable[[], list[Tokenised]]) -> list[Tokenised]:
    """Return the rows cached at `path`, or make and cache them.

    If they cannot be written, the run continues and its log reports it.
    """
    if path.exists():
        try:
            return unpack(path.read_bytes(), num_rows)
        except _BROKEN as error:
            print(f"cached tokens at {path} cannot be read ({error}); tokenising again", flush=True)
    rows = make()
    try:
        write_atomically(path, pack(rows))
    except OSError as error:
        print(f"tokens cannot be cached: {error}", flush=True)
    return rows
