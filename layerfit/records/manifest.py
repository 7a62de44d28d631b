"""Where and with what a run was made."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("layerfit", "conf", "scripts", "pyproject.toml")
"""What decides results: a change elsewhere (results, docs, tests) does not make a tree dirty."""
PACKAGES = ("torch", "transformers", "deepspeed", "peft", "lm_eval", "datasets", "accelerate", "layerfit")


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


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
    """Return commit, dirty flag (null outside git), versions, device, where model and data came from, command line."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--", *SOURCES)
    return {
        "commit": commit.strip() if commit else None,
        "dirty": None if commit is None or status is None else bool(status.strip()),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": device,
        "sources": sources,
        "command": command(sys.argv),
    }
