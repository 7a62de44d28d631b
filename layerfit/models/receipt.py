"""The receipt that `layerfit.prefetch` writes to each folder of a mirror: repository, commit, file sizes and hashes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from layerfit.errors import UserError
from layerfit.files.names import check_file, is_revision
from layerfit.files.writing import write_atomically
from layerfit.models.metadata import read_object

NAME = ".layerfit-prefetch.json"
_SHA256 = 64
_CHUNK = 2**22
_LARGEST = 2**50
"""Bytes: a petabyte; the hub takes files up to 500 GB."""
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """A file of a repository: path, bytes, and the hub's hash: sha256 of LFS files, git's sha1 of others.

    Raises:
        UserError: if it is none, or its path leads out of its folder or to the receipt: a listing is believed by what
            it says and not by where it comes from.
    """

    path: str
    size: int
    hash: str

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not isinstance(self.hash, str) or type(self.size) is not int:
            raise UserError(f"file {self.path!r:.80} of {self.size!r:.20} bytes is none")
        check_file("the list of files", self.path)
        if self.path == NAME or not 0 <= self.size <= _LARGEST or not _HASH.fullmatch(self.hash):
            raise UserError(f"file {self.path!r:.80} has {self.size} bytes and hash {self.hash[:80]!r}, which none has")


@dataclass(frozen=True)
class Receipt:
    """Contents of a folder of a mirror.

    revision: as requested, None = the newest. commit: its commit. branch: branch of the files, if not the repository's
    default. weights: whether a model's weights are included. subsets: of a dataset, None = all.
    complete: all files have been fetched and match the hub's hashes.
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

    def __post_init__(self) -> None:
        texts = (self.revision or self.commit, self.commit, self.branch or self.commit)
        if not all(isinstance(text, str) and is_revision(text) for text in texts):
            raise UserError(f"commit {self.commit!r:.80} is none")


def read(folder: Path) -> Receipt | None:
    """Return a folder's receipt, None if it has none (the folder was filled by hand).

    Raises:
        UserError: if the file is not a receipt.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    data = read_object(path)
    try:
        files = tuple(File(**file) for file in data.pop("files"))
        subsets = data.pop("subsets")
        return Receipt(**data, files=files, subsets=None if subsets is None else tuple(subsets))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a receipt of layerfit.prefetch ({error}); delete it, fetch again") from error


def write(folder: Path, receipt: Receipt) -> None:
    """Write a folder's receipt atomically."""
    write_atomically(folder / NAME, (json.dumps(asdict(receipt), indent=1) + "\n").encode())


def digest(path: Path, like: str) -> str:
    """Return the hash of a file, of the same kind as `like`: sha256, or git's sha1 of a blob."""
    size = path.stat().st_size
    hasher = hashlib.sha256() if len(like) == _SHA256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def damage(folder: Path, file: File, *, hashes: bool) -> str | None:
    """Return the fault of a file, None if it has none. Its content is read only with `hashes`."""
    path = folder / file.path
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != file.size:
        return f"has {size} bytes, not {file.size}"
    if hashes and digest(path, file.hash) != file.hash:
        return "is damaged: its content differs from the hub's"
    return None


def damaged(folder: Path, receipt: Receipt, *, hashes: bool) -> Iterator[tuple[File, str]]:
    """Yield every file that does not match the receipt, and its fault."""
    for file in receipt.files:
        if (why := damage(folder, file, hashes=hashes)) is not None:
            yield file, why
