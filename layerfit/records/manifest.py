"""Where and with what a run was made."""

from __future__ import annotations

import base64
import hashlib
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
PACKAGES = ("torch", "transformers", "deepspeed", "peft", "lm_eval", "datasets", "accelerate", "layerfit")


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _is_checkout() -> bool:
    """Return whether the package lies in a checkout of its own: not in an environment inside another repository."""
    top = _git("rev-parse", "--show-toplevel")
    return top is not None and Path(top.strip()).resolve() == ROOT


def changed_sources() -> list[str] | None:
    """Return the files that make the source tree dirty: other than in the commit, or than in the installed wheel.

    With its resolved values a run's result is decided by the code of the package (the embedded data included) and by
    the versions of others, which are recorded. So only the package counts: a table's spec, claims, `conf/` (its values
    are resolved into the record), scripts, tests and documentation decide nothing.

    Returns:
        Paths relative to the checkout; [] = clean; None = neither a checkout nor a wheel, so it cannot be known.
    """
    if _is_checkout():
        # Untracked files count, also where git's own configuration hides them: a new method is one.
        status = _git("status", "--porcelain", "--untracked-files=all", "--", PACKAGE.name)
        return None if status is None else [line[3:].split(" -> ")[-1].strip('"') for line in status.splitlines()]
    return _changed_since_installed()


def _changed_since_installed() -> list[str] | None:
    """Compare an installed package with its wheel's list of hashes (RECORD); None if it lists no package."""
    try:
        files = distribution(PACKAGE.name).files or []
    except PackageNotFoundError:
        return None
    listed = {Path(str(file.locate())).resolve(): file.hash.value for file in files if file.hash is not None}
    if PACKAGE / "__init__.py" not in listed:  # an editable install lists no code
        return None

    def counts(path: Path) -> bool:
        parts = path.relative_to(PACKAGE).parts if path.is_relative_to(PACKAGE) else ("conf",)
        return parts[0] != "conf" and "__pycache__" not in parts

    known = {path for path in listed if counts(path)}
    present = {path for path in PACKAGE.rglob("*") if path.is_file() and counts(path)}
    same = {path for path in known & present if listed[path] == _wheel_hash(path)}
    return sorted(str(path.relative_to(ROOT)) for path in (known | present) - same)


def _wheel_hash(path: Path) -> str:
    """Return a file's SHA-256 as wheels write it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")


def dirt() -> str | None:
    """Return in a few words why tables will refuse what is run now, None if the source tree is clean."""
    changed = changed_sources()
    if changed is None:
        return "whether the source tree is clean is not known: neither a git checkout nor an installed wheel"
    if not changed:
        return None
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"the source tree has uncommitted changes ({', '.join(changed[:3])}{more})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def command(words: list[str]) -> list[str]:
    """Return a command line without the place of this checkout: a record is for others too."""
    program = Path(words[0]) if words else Path()
    shown = program.relative_to(ROOT) if program.is_relative_to(ROOT) else Path(program.name)
    return [str(shown), *words[1:]]


def manifest(device: str, sources: dict[str, str]) -> dict[str, Any]:
    """Return commit (null for a wheel), dirty flag (null = not known), versions, device, origins, command line."""
    commit = _git("rev-parse", "HEAD") if _is_checkout() else None
    changed = changed_sources()
    return {
        "commit": commit.strip() if commit else None,
        "dirty": None if changed is None else bool(changed),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": device,
        "sources": sources,
        "command": command(sys.argv),
    }
