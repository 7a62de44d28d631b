"""Paths that come from outside: a user's are expanded here, names from a hub or a file's text stay inside a folder."""

from __future__ import annotations

import stat
from pathlib import Path

from layerfit.errors import UserError

PATH = {"path": True}
"""Metadata of a configuration's fields that hold a path of the user's: `config/values.py` expands all of them."""
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""Bytes: Linux's NAME_MAX and PATH_MAX."""


def expand(key: str, text: str) -> Path:
    """Return a path that a user gave, with `~` expanded; the one place that does so.

    Raises:
        UserError: naming `key`, if no file can have this path: empty, a NUL in it, too long, or the `~` of nobody.
    """
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    if not text.strip():
        raise UserError(f"{key}={text!r} is empty; give a path")
    if any(ord(c) < 32 for c in text):
        raise UserError(f"{key}={shown!r} has control characters; give another path")
    try:
        path = Path(text).expanduser()
        size = len(str(path.absolute()).encode())
        longest = max((len(part.encode()) for part in path.parts), default=0)
    except RuntimeError as error:
        raise UserError(f"{key}={shown}: {Path(text).parts[0]} is no user's home folder; give a full path") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{key}={shown!r} is not valid Unicode; give another path") from error
    if longest > _LONGEST_NAME or size > _LONGEST_PATH:
        raise UserError(
            f"{key}={shown} is too long for a path ({longest} bytes in one name, {size} in all; "
            f"at most {_LONGEST_NAME} and {_LONGEST_PATH}); give a shorter one"
        )
    return path


def inside(root: Path, name: str, where: str) -> Path:
    """Return `root / name` for a name from outside (a hub's listing, a card, a configuration file).

    Links are followed: what counts is the place itself.

    Raises:
        UserError: if that is not inside `root`. where: the source of the name, for the message.
    """
    path = root / name
    if any(ord(c) < 32 for c in name) or not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{where} names {name[:80]!r}, which is outside {root}; only names inside it are allowed")
    return path


def check_kind(key: str, path: Path) -> None:
    """Raise UserError if a path is there but is neither a regular file nor a folder; it is not opened.

    Opening a FIFO waits for ever, and a device has no end.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise UserError(f"{key}={path} is a link to {path.readlink()}, which is not there") from error
        return
    except OSError as error:
        raise UserError(f"{key}={path} cannot be read: {error.strerror or error}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise UserError(f"{key}={path} is {kind}, not a file or folder; write its content to a file first")
