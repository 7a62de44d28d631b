"""The JSON files of a model's folder. They come from outside: what is wrong with one is said in a line."""

from __future__ import annotations

import json
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

from layerfit.errors import UserError
from layerfit.files.model_folder import OBJECTS

_LARGEST = 2**28
"""Bytes; the largest published tokenizer.json have 35 MB."""


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        UserError: if it is no regular file, or too large for one of these, or does not hold an object.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is not a regular file; copy the model again")
        if found.st_size > _LARGEST:
            raise UserError(f"{path} has {found.st_size:,} bytes, more than any such file; copy the model again")
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; copy the model again") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; copy the model again"
        ) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not JSON: {str(error).splitlines()[0]}; copy the model again") from error
    if not isinstance(read, dict):
        raise UserError(f"{path} holds {_kind(read)}, not an object {{...}}; copy the model again")
    return read


def _kind(value: object) -> str:
    """Return what JSON calls a value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "a list" if isinstance(value, list) else "a string" if isinstance(value, str) else "a number"


def check_metadata(folder: Path) -> None:
    """Raise UserError if a JSON file that transformers reads in a model's folder cannot be read."""
    for path in (folder / name for name in OBJECTS):
        if path.is_file():
            about = path.stat()
            _check(path, about.st_mtime_ns, about.st_size)
        elif os.path.lexists(path):  # a pipe, a folder, a link to nothing
            read_object(path)


@lru_cache(maxsize=64)
def _check(path: Path, changed_ns: int, size: int) -> None:  # noqa: ARG001 - they identify the content
    """Read a file, once as long as it does not change: for every run of a sweep it is asked for."""
    read_object(path)
