"""What `layerfit.prefetch` leaves in every folder of a mirror: which commit of what, and every file's size and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from layerfit.errors import UserError
from layerfit.records.record import write_atomically

NAME = ".layerfit-prefetch.json"
_SHA256 = 64
_CHUNK = 2**22


@dataclass(frozen=True)
class File:
    """A file of a repository: its path there, bytes, and the hub's hash: sha256, or of small files git's sha1."""

    path: str
    size: int
    hash: str


@dataclass(frozen=True)
class Receipt:
    """What a folder of a mirror holds.

    revision: as asked, None = whatever was newest. commit: what that was. branch: where the files are, if not in the
    repository's own tree. weights: of a model, fetched too. subsets: of a dataset, None = everything.
    complete: all files are there, with the hub's hashes.
    """

    kind: str
    repo: str
    revision: str | None
    commit: str
    files: tuple[File, ...]
    branch: str | None = None
    weights: bool = False
    subsets: tuple[str, ...] | None = None
    complete: bool = False


def read(folder: Path) -> Receipt | None:
    """Return a folder's receipt, None if it has none: it was filled by hand.

    Raises:
        UserError: if the file is not one.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(File(**file) for file in data.pop("files"))
        subsets = data.pop("subsets")
        return Receipt(**data, files=files, subsets=None if subsets is None else tuple(subsets))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not what layerfit.prefetch writes ({error}); delete it and fetch again") from error


def write(folder: Path, receipt: Receipt) -> None:
    """Write a folder's receipt, so that nobody ever reads half of it."""
    write_atomically(folder / NAME, (json.dumps(asdict(receipt), indent=1) + "\n").encode())


def digest(path: Path, like: str) -> str:
    """Return the hash of a file, of the kind that `like` is: sha256, or git's sha1 of a blob."""
    size = path.stat().st_size
    hasher = hashlib.sha256() if len(like) == _SHA256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def damage(folder: Path, file: File, *, hashes: bool) -> str | None:
    """Return what is wrong with a file, None if nothing is. Its content is read only with `hashes`."""
    path = folder / file.path
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != file.size:
        return f"has {size} bytes, not {file.size}"
    if hashes and digest(path, file.hash) != file.hash:
        return "is damaged: its content is not what the hub has"
    return None


def damaged(folder: Path, receipt: Receipt, *, hashes: bool) -> Iterator[tuple[File, str]]:
    """Yield every file that is not as the receipt says, and what is wrong with it."""
    for file in receipt.files:
        if (why := damage(folder, file, hashes=hashes)) is not None:
            yield file, why
