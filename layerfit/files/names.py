"""Names that come from a hub, a receipt or an index: repositories, revisions, and files of a repository.

What they may look like, by their text alone: none of them can then lead out of the folder that it is put behind. (Links
inside a folder are the user's own, and a cache of the hub is made of them: `paths.inside` would follow them.)
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from layerfit.errors import UserError

_WORD = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_REPOSITORY = re.compile(rf"(?:{_WORD}/)?{_WORD}", re.ASCII)
_REVISION = re.compile(r"[\w.-]+(?:/[\w.-]+)*", re.ASCII)
_LONGEST_ID, _LONGEST_REVISION = 96, 200
"""Characters: the hub's own limit of an id; a branch's name is a file's name in a cache."""


def is_repository(text: str) -> bool:
    """Return whether a text can be a hub id: `org/name`, or `name` for the oldest."""
    return bool(_REPOSITORY.fullmatch(text)) and ".." not in text and len(text) <= _LONGEST_ID


def check_repository(key: str, text: str) -> None:
    """Raise UserError unless a text can be a hub id. key: what it was given as."""
    if not is_repository(text):
        raise UserError(
            f"{key}={text[:100]!r} is not an id of the hub; give org/name, of letters, digits, '-', '_' and '.'"
        )


def is_revision(text: str) -> bool:
    """Return whether a text can be a revision: a commit, a tag, or a branch such as `refs/pr/1`."""
    parts = text.split("/")
    return bool(_REVISION.fullmatch(text)) and not {"", ".", ".."} & {*parts} and len(text) <= _LONGEST_REVISION


def check_revision(key: str, text: str) -> None:
    """Raise UserError unless a text can be a revision. key: what it was given as."""
    if not is_revision(text):
        raise UserError(f"{key}={text[:100]!r} is not a revision; give a commit, a tag or a branch, or null")


def check_file(where: str, name: str) -> None:
    """Raise UserError unless a name is a path inside a folder: relative, plain, no `..`. where: who names it."""
    path = PurePosixPath(name)
    plain = str(path) == name and not path.is_absolute() and path.parts and ".." not in path.parts
    if not plain or len(name.encode(errors="replace")) > 1024 or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise UserError(f"{where} names {name[:80]!r}, which is no path inside its folder; use another source")
