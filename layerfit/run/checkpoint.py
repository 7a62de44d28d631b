"""Checkpoints: one file, written under a temporary name and renamed; the last good one is used.

Everything is kept at full size, so a checkpoint does not depend on the engine or on the number of ranks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically; a kill at any moment leaves the old one or the new one."""
    temporary = path.with_suffix(".writing")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint (tensors and plain containers only), or None if there is none of this format."""
    if not path.exists():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content if content.get("format") == FORMAT else None
