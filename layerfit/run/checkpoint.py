"""Checkpoints: one file, written under a temporary name and renamed; its own digest stands at its end.

Everything is kept at full size, so a checkpoint does not depend on the engine or on the number of ranks.
A method's state is kept field by field (`fields_of`, `restore`): it is a data class of plain values.
The file is what `torch.save` writes, then 32 bytes of SHA-256 over it, then `MARK`; `torch.load` reads it as it is, but
notices no flipped bit.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import torch

from layerfit.run.failures import say

FORMAT = 3
"""3: with a digest and the run's id."""
KIND = "kind"
MARK = b"layerfit"
BLOCK = 1 << 22


class Unusable(Exception):
    """A checkpoint that no run can go on from, and why."""


class _Hashing:
    """A file to write to, whose bytes are hashed on the way: no second reading, no copy in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write."""
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        """Flush."""
        self.file.flush()


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically; a kill at any moment leaves the old one or the new one.

    Raises:
        OSError: if it cannot be written; what was written of it is removed, the old one stays.
    """
    temporary = path.with_suffix(".writing")
    try:
        with temporary.open("wb") as file:
            hashing = _Hashing(file)
            torch.save({"format": FORMAT, **content}, hashing)  # type: ignore[arg-type]
            file.write(hashing.hash.digest() + MARK)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from error  # torch says that it could not write, and not why
        raise


def load(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint (tensors and plain containers only), None if there is none.

    Raises:
        Unusable: if it is not, byte for byte, one that this version has written.
    """
    try:
        with path.open("rb") as file:
            _check_bytes(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"it cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise Unusable(f"its format is {found!r}, and this version writes {FORMAT}")
    return content


def _check_bytes(file: IO[bytes]) -> None:
    """Compare a file with the digest at its end.

    Raises:
        Unusable: if there is none, or another.
    """
    size = os.fstat(file.fileno()).st_size
    left = size - hashlib.sha256().digest_size - len(MARK)
    if left <= 0:
        raise Unusable("it is empty" if size == 0 else f"it is cut short: {size} bytes")
    found = hashlib.sha256()
    while left > 0 and (block := file.read(min(BLOCK, left))):
        found.update(block)
        left -= len(block)
    end = file.read()
    if not end.endswith(MARK):
        raise Unusable("no digest stands at its end: it is cut short, or of an older version, or no checkpoint")
    if end != found.digest() + MARK:
        raise Unusable("it is damaged: its bytes are not those that were written, by their digest")


def set_aside(path: Path, why: str) -> str | None:
    """Rename a checkpoint to `checkpoint.<time>.broken` and say so; nothing is deleted.

    On several ranks each may call: the first renames it, and is returned what was done.
    """
    kept = path.with_name(f"{path.stem}.{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}.broken")
    try:
        path.rename(kept)
    except FileNotFoundError:
        return None  # another rank has
    done = f"{path} cannot be used: {why}; kept as {kept.name}, the run starts anew"
    say(f"layerfit: {done}")
    return done


def fields_of(state: Any) -> dict[str, Any] | None:
    """Return a method's state as a checkpoint keeps it: the name of its class, and its fields; None for no state."""
    if state is None:
        return None
    return {KIND: type(state).__name__, **{f.name: getattr(state, f.name) for f in fields(state)}}


def check_state(state: Any, saved: dict[str, Any] | None) -> None:
    """Compare a method's state with that of a checkpoint.

    Raises:
        Unusable: if the checkpoint has another class or other fields than the state.
    """
    ours, theirs = fields_of(state) or {}, saved or {}
    if set(ours) != set(theirs) or ours.get(KIND) != theirs.get(KIND):
        raise Unusable(
            f"it holds a method's state {theirs.get(KIND)} ({', '.join(sorted(theirs))}), and this version has "
            f"{ours.get(KIND)} ({', '.join(sorted(ours))})"
        )


def restore(state: Any, saved: dict[str, Any] | None) -> None:
    """Make a state that of a checkpoint, in place.

    Raises:
        Unusable: if the checkpoint has another class or other fields than the state, which stays as it is.
    """
    check_state(state, saved)
    for name in (saved or {}).keys() - {KIND}:
        setattr(state, name, (saved or {})[name])
