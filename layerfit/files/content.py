"""What files hold: a digest of the files of a folder that decide a result, each read once.

A file's digest is remembered with its size, times and inode, in this process and, if it is large, in the user's cache.
It is kept on disk only if the file had not just been changed: a change within the clock's tick would leave the same
times (git calls such an entry racily clean).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from layerfit.errors import UserError
from layerfit.files.dataset_folder import data_files
from layerfit.files.model_folder import PATTERNS
from layerfit.files.paths import expand
from layerfit.files.writing import write_atomically

_WEIGHTS = ("*.safetensors", "*.bin")
"""Of a model with several formats the first is loaded."""
LARGE = 2**20
"""Bytes: the digests of smaller files are not kept on disk, where looking takes as long as reading them."""
SETTLED_S, TICK_S = 2.0, 0.05
"""Age of a file's last change from which a further change is sure to show: on any file system, and where times are
finer than seconds (the kernel's clock ticks every 1 to 10 ms)."""


def of_file(path: Path) -> str:
    """Return the digest of a file's content, whatever its name.

    Raises:
        UserError: if it is no file, cannot be read, or was changed meanwhile.
    """
    return _short([digest(path)])


def of_data(path: Path, subset: str | None = None) -> str:
    """Return the digest of a data file, or of what is read of a folder: its data files, by split and name.

    Other files do not count, nor what a README says beside the splits.

    Raises:
        UserError: as `of_file` and `dataset_folder.data_files`.
    """
    if not path.is_dir():
        return of_file(path)
    splits = data_files(path, subset)
    return _short(f"{split}\0{text}" for split in sorted(splits) for text in _named(path, splits[split]))


def of_model(folder: Path) -> str:
    """Return the digest of a model's configuration, tokenizer and weights.

    Raises:
        UserError: as `of_file`.
    """
    weights = next((found for pattern in _WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
    files = {path for pattern in (*PATTERNS, "*.index.json") for path in folder.glob(pattern)}
    return _short(_named(folder, {*files, *weights}))


def _named(root: Path, files: Iterable[Path]) -> list[str]:
    return [f"{path.relative_to(root).as_posix()}\0{digest(path)}" for path in sorted(files) if not path.is_dir()]


def _short(parts: Iterable[str]) -> str:
    return f"sha:{hashlib.blake2b(json.dumps(list(parts)).encode(), digest_size=8).hexdigest()}"


class Stamp(NamedTuple):
    """What changes when a file is written to; `changed_ns` cannot be set back, as `modified_ns` can."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    def age(self) -> float:
        """Return the seconds since the last change."""
        return time.time() - max(self.modified_ns, self.changed_ns) / 1e9

    def is_coarse(self) -> bool:
        """Return whether its file system counts in whole seconds."""
        return self.modified_ns % 10**9 == 0 and self.changed_ns % 10**9 == 0


_DIGEST = re.compile("[0-9a-f]{32}")
_known: dict[str, tuple[Stamp, str]] = {}
"""Digests by absolute path."""


def digest(path: Path) -> str:
    """Return the hash of a file's bytes, read in chunks, unless it is known.

    Raises:
        UserError: if it is no regular file, cannot be read, or was changed while it was read.
    """
    where, stamp = str(path.absolute()), _stamp(path)
    if (known := _known.get(where)) is not None and known[0] == stamp:
        return known[1]
    kept = _place(where) if stamp.size >= LARGE else None
    if (found := _kept(kept, stamp)) is None:
        if 0 <= stamp.age() < TICK_S:
            time.sleep(TICK_S)
        settled = stamp.age() >= (SETTLED_S if stamp.is_coarse() else TICK_S)
        old = stamp.age() >= SETTLED_S
        found = _read(path)
        if _stamp(path) != stamp:
            raise UserError(f"{path} was changed while it was read; start the same command again")
        if kept is not None and old:
            _keep(kept, stamp, found)
        if not settled:
            return found
    _known[where] = (stamp, found)
    return found


def _stamp(path: Path) -> Stamp:
    try:
        now = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(now.st_mode):
        raise UserError(f"{path} is not a regular file; give a file that holds its content")
    return Stamp(now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _place(where: str) -> Path | None:
    """Return the file that keeps a path's digest, None if there is no home folder."""
    try:
        cache = expand("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except UserError:
        return None
    name = hashlib.blake2b(where.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return cache / "layerfit" / "digests" / f"{name}.json"


def _kept(place: Path | None, stamp: Stamp) -> str | None:
    """Return the digest kept for a file as it is now, None without one."""
    try:
        found = None if place is None else json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    match found:
        case {"stamp": [*numbers], "digest": str(text)} if numbers == list(stamp) and _DIGEST.fullmatch(text):
            return text
    return None


def _keep(place: Path, stamp: Stamp, text: str) -> None:
    try:
        write_atomically(place, json.dumps({"stamp": stamp, "digest": text}).encode())
    except OSError:  # no room or no permission: the file is read again next time
        return
