"""A run's manifest: commit, versions, device, command line."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from layerfit.files.secrets import hide
from layerfit.installation import ROOT, source

PACKAGES = ("torch", "transformers", "deepspeed", "peft", "lm_eval", "datasets", "accelerate", "layerfit")


def dirt() -> str | None:
    """Return a short reason why tables will refuse a run started now, None if the source tree is clean."""
    code = source()
    if code.dirty is None:
        return f"whether the source tree is clean is not known ({code.reason})"
    if not code.dirty:
        return None
    if not code.changed:
        return "files of the installed package were changed"
    more = f" and {len(code.changed) - 3} more" if len(code.changed) > 3 else ""
    return f"the source tree has uncommitted changes ({', '.join(code.changed[:3])}{more})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def command(words: list[str]) -> list[str]:
    """Return a command line without the path of this checkout and without keys: records are shared."""
    program = Path(words[0]) if words else Path()
    shown = program.relative_to(ROOT) if program.is_relative_to(ROOT) else Path(program.name)
    return [hide(word) for word in (str(shown), *words[1:])]


def manifest(device: str, sources: dict[str, str]) -> dict[str, Any]:
    """Return commit, dirty flag, versions, device, origins of model and data, command line.

    Commit and dirty flag are null if not known; `commit_unknown` then gives the reason.
    """
    code = source()
    return {
        "commit": code.commit,
        "dirty": code.dirty,
        **({"commit_unknown": code.reason} if code.reason else {}),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": device,
        "sources": sources,
        "command": command(sys.argv),
    }
