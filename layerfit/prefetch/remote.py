"""The hub over the network: the files of a repository at a commit, with downloads that resume.

`huggingface_hub` gives addresses, tokens, the connection and errors; files are written here, for two reasons measured
with 2.4.0 (`hf_hub_download` with `local_dir`, and `snapshot_download`, which calls it). It does not resume after a
kill: each process uses its own temporary name, so the next one starts at byte 0 and the old piece stays on disk, but
weights have gigabytes, and jobs on a login node get killed. And over plain HTTP it compares sizes, not hashes: wrong
bytes of the right length pass. tests/prefetch fails when that changes. The cost: no Xet.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerfit.errors import UserError
from layerfit.files.names import is_revision
from layerfit.files.paths import inside
from layerfit.models.receipt import File, damage

_ATTEMPTS = 4
"""Consecutive attempts at a file without progress."""
_WAIT_S = 0.5
_DENIED = (401, 403)


class Trouble(Exception):
    """A repository could not be fetched; the message is one line with the fix."""


class Unreachable(Trouble):
    """The hub does not answer at all: trying other repositories is useless."""


@dataclass(frozen=True)
class Listing:
    """Files of a repository at a commit. configs: the subsets in a data set's card."""

    commit: str
    files: tuple[File, ...]
    configs: list[dict[str, Any]]


def check_online() -> None:
    """Raise UserError if the environment forbids the network."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, so nothing can be fetched; unset it")


def endpoint() -> str:
    """Return the hub's address."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def list_repo(kind: str, repo: str, revision: str | None) -> Listing:
    """Return the files of a repository, with sizes and hashes.

    Raises:
        Trouble: if the hub does not provide them.
    """
    from huggingface_hub import HfApi

    name = f"{kind.removesuffix('s')} {repo}"
    with _told(name, repo, kind, revision):
        info: Any = HfApi().repo_info(repo, repo_type=kind.removesuffix("s"), revision=revision, files_metadata=True)
        files = tuple(_file(sibling) for sibling in info.siblings or [])
        card = getattr(info, "card_data", None)
        configs = (card.get("configs") if card is not None else None) or []
        if not isinstance(info.sha, str) or not is_revision(info.sha):
            raise UserError(f"commit {info.sha!r:.80} is none")
        return Listing(info.sha, files, [config for config in configs if isinstance(config, dict)])


def _file(sibling: Any) -> File:
    if sibling.lfs is not None:
        return File(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
    if sibling.size is None or sibling.blob_id is None:
        raise UserError(f"it has no size or hash of {sibling.rfilename!r:.80}")
    return File(sibling.rfilename, sibling.size, sibling.blob_id)


@contextmanager
def _told(what: str, repo: str, kind: str, revision: str | None) -> Iterator[None]:
    """Turn network errors into Trouble: one line, with the fix."""
    from huggingface_hub import errors

    page = f"{endpoint()}/{'' if kind == 'models' else f'{kind}/'}{repo}"
    again = "the same command then continues from here"
    try:
        yield
    except errors.RevisionNotFoundError as error:
        key = "model.revision" if kind == "models" else "dataset.revision"
        raise Trouble(f"{what} has no revision {revision}; set {key} to a commit of {page}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, errors.GatedRepoError) or status in _DENIED:
            raise Trouble(
                f"{kind.removesuffix('s')} {repo} is gated, private, or missing ({status}): accept its licence at "
                f"{page} and log in with `hf auth login`, or set HF_TOKEN; {again}"
            ) from error
        if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
            raise Trouble(f"{what} is not at {page}; check its id (model.id, dataset.id)") from error
        raise Trouble(f"{what}: {endpoint()} answers {status}; try again later, fetched files are kept") from error
    except (errors.HTTPError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, UserError):
            raise Trouble(f"{what}: the list of {endpoint()} cannot be used: {said}") from error
        if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
            raise Trouble(f"{what}: {said}: a folder and a file of one name; move it away, {again}") from error
        if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
            raise Trouble(f"{what}: {said}; make room or give another folder, {again}") from error
        raise Unreachable(f"{what}: {endpoint()} cannot be reached ({said}); with network, {again}") from error
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise Trouble(f"{what}: the answer of {endpoint()} cannot be read ({said}); try again later") from error


def fetch(kind: str, repo: str, commit: str, file: File, folder: Path, progress: Callable[[int], object]) -> None:
    """Fetch one file into a folder and check its hash; a partial download is resumed.

    progress: called with the bytes received (negative, if they have to be fetched again).

    Raises:
        Trouble: if it cannot be fetched.
    """
    what = f"{kind.removesuffix('s')} {repo}, file {file.path}"
    target = folder / file.path
    part = target.with_name(f".{target.name}.{file.hash[:12]}.part")
    wrong: str | None = None
    with _told(what, repo, kind, commit):
        inside(folder, file.path, "it")  # also where a link lies in the way
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            _fill(kind, repo, commit, file, part, progress)
            wrong = damage(part.parent, File(part.name, file.size, file.hash), hashes=True)
            if wrong is None:
                part.replace(target)
                return
            progress(-part.stat().st_size)
            part.unlink()
    raise Trouble(f"{what}: as {endpoint()} sends it, it {wrong}; try again later")


def _fill(kind: str, repo: str, commit: str, file: File, part: Path, progress: Callable[[int], object]) -> None:
    """Append to `part` until it has the file's size, reconnecting as needed."""
    from huggingface_hub import errors, hf_hub_url

    url = hf_hub_url(repo, file.path, repo_type=kind.removesuffix("s"), revision=commit)
    part.touch()
    if part.stat().st_size > file.size:
        part.unlink()
        part.touch()
    progress(part.stat().st_size)
    left = _ATTEMPTS
    while (have := part.stat().st_size) < file.size:
        try:
            _receive(url, part, have, file.size, progress)
        except errors.HfHubHTTPError as error:
            if error.response.status_code < 500 and error.response.status_code != 429:
                raise
            left = _next(left, error)
        except errors.HTTPError as error:
            left = _next(left if part.stat().st_size == have else _ATTEMPTS, error)
        else:
            left = left if part.stat().st_size > have else _next(left, ValueError("the server closed the connection"))


def _next(left: int, error: Exception) -> int:
    """Wait for the next attempt and return the number left; raise the error if there is none."""
    if left <= 1:
        raise error
    time.sleep(_WAIT_S * 2 ** (_ATTEMPTS - left))
    return left - 1


def _receive(url: str, part: Path, have: int, size: int, progress: Callable[[int], object]) -> None:
    """Append the bytes that one connection sends, at most those missing."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        if have and response.status_code != 206:  # the server ignored Range and sends the whole file
            progress(-have)
            have = 0
        with part.open("r+b") as out:
            out.seek(have)
            out.truncate()
            for chunk in response.iter_bytes():  # unbuffered: a broken connection loses nothing received
                wanted = chunk[: size - have]
                out.write(wanted)
                progress(len(wanted))
                have += len(wanted)
            out.flush()
            os.fsync(out.fileno())
