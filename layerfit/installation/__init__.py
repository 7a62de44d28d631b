"""How layerfit is installed: its configuration folder and the version of its code. Standard library only.

In a checkout `conf/` is beside the package and git identifies the code. A wheel holds a copy, `layerfit/conf`, and
`layerfit/_build.json`: the commit it was built from, whether that tree was clean, and a hash of the package's files.
`setup.py` loads this file by its path, before any dependency is installed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
"""The folder that contains the package: a checkout, or an environment's site-packages."""
SOURCES = "layerfit"
"""Changes below this path make a tree dirty. A run's result depends on its resolved configuration and the versions of
other packages, both recorded, and on this package's code and data; not on table specs, claims, scripts or tests."""
BUILD = "_build.json"
NOT_KNOWN = "the package is neither in a git checkout nor from a build that recorded its commit"


@dataclass(frozen=True)
class Source:
    """Version of the code. dirty: changed since `commit`; None if not known, for the reason in `reason`.

    changed: the files that differ from the commit, relative to the checkout; () outside a checkout.
    """

    commit: str | None
    dirty: bool | None
    reason: str | None = None
    changed: tuple[str, ...] = ()


def conf_folder(package: Path = PACKAGE) -> Path:
    """Return the configuration folder: the package's own copy if there is one (a wheel), else the checkout's."""
    copy = package / "conf"
    return copy if copy.is_dir() else package.parent / "conf"


def checkout(package: Path = PACKAGE) -> Path | None:
    """Return the root of the package's source tree, None for an installed wheel."""
    return None if (package / "conf").is_dir() else package.parent


def source(package: Path = PACKAGE) -> Source:
    """Return the version of the code: from git in a checkout, else from the build record."""
    root = checkout(package)
    found = _of_git(root) if root is not None else None
    return found or _of_build(package) or Source(None, None, NOT_KNOWN)


def command_for(target: str, table: str) -> str:
    """Return a command on a table for messages: `make todo T=x` in a checkout, else `layerfit todo x`."""
    return f"layerfit {target} {table}" if checkout() is None else f"make {target} T={table}"


def build_record(package: Path, built: Path) -> dict[str, Any]:
    """Return the content of `_build.json` for the files in `built`, made from the source tree of `package`."""
    return {**asdict(source(package)), "digest": digest(built)}


def digest(package: Path) -> str:
    """Return a hash of a package's file names and contents, without configuration, whose values are in records."""
    out = hashlib.blake2s(digest_size=16)
    for path in sorted(package.rglob("*")):
        inside = path.relative_to(package)
        if path.with_name(f"{path.name}.xz").is_file():  # unpacked from it (`models/packed.py`)
            continue
        if path.is_file() and inside.parts[0] not in ("conf", BUILD) and "__pycache__" not in inside.parts:
            out.update(inside.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return out.hexdigest()


def _of_git(root: Path) -> Source | None:
    """Return the version from git, None outside a checkout."""
    words = _git(root, "rev-parse", "HEAD", "--show-prefix")
    # A prefix means that `root` lies inside another project's repository.
    if words is None or words.split("\n")[1].strip():
        return None
    # Untracked files count, also where git's configuration hides them: a new method is an untracked file.
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", SOURCES)
    if status is None:
        return Source(words.split("\n")[0], None, "git status failed")
    changed = tuple(line[3:].split(" -> ")[-1].strip('"') for line in status.splitlines())
    return Source(words.split("\n")[0], bool(changed), changed=changed)


def _git(root: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _of_build(package: Path) -> Source | None:
    """Return the version from the build record, None without one. Files edited since then count as a dirty tree."""
    path = package / BUILD
    if not path.is_file():
        return None
    made = json.loads(path.read_text())
    edited = made["digest"] != digest(package)
    return Source(made["commit"], True if edited else made["dirty"], made["reason"])
