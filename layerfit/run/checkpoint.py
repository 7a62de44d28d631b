"""Checkpoints: one file, written under a temporary name and renamed; the last good one is used.

Everything is kept at full size, so a checkpoint does not depend on the engine or on the number of ranks.
A method's state is kept field by field (`fields_of`, `restore`): it is a data class of plain values.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from layerfit.errors import UserError

FORMAT = 2
KIND = "kind"


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


def fields_of(state: Any) -> dict[str, Any] | None:
    """Return a method's state as a checkpoint keeps it: the name of its class, and its fields; None for no state."""
    if state is None:
        return None
    return {KIND: type(state).__name__, **{f.name: getattr(state, f.name) for f in fields(state)}}


def restore(state: Any, saved: dict[str, Any] | None) -> None:
    """Make a state that of a checkpoint, in place.

    Raises:
        UserError: if the checkpoint has another class or other fields than the state.
    """
    ours = fields_of(state) or {}
    theirs = saved or {}
    if set(ours) != set(theirs) or ours.get(KIND) != theirs.get(KIND):
        raise UserError(
            f"the checkpoint holds a method's state {theirs.get(KIND)} ({', '.join(sorted(theirs))}) and this version "
            f"has {ours.get(KIND)} ({', '.join(sorted(ours))}); move checkpoint.pt away to start anew"
        )
    for name in theirs.keys() - {KIND}:
        setattr(state, name, theirs[name])
