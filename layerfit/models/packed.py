"""Weights shipped compressed, and unpacked at first use into the same folder, where loaders look for them.

transformers reads no compressed weights. xz is lossless and saves a third of 16-bit numbers when it models high and low
bytes separately (gzip: a fifth).
"""

from __future__ import annotations

import lzma
import os
import shutil
from pathlib import Path

from layerfit.errors import UserError
from layerfit.files.paths import expand
from layerfit.files.writing import write_atomically

WEIGHTS, PACKED = "model.safetensors", "model.safetensors.xz"


def pack(folder: Path, bytes_a_number: int) -> Path:
    """Write a model's compressed weights beside the plain ones; return their file. `bytes_a_number`: 2 or 4."""
    bits = {2: 1, 4: 2}[bytes_a_number]  # lp, pb: low bits of a byte's offset that its coding depends on
    how = {"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4 - bits, "lp": bits, "pb": bits}
    write_atomically(folder / PACKED, lzma.compress((folder / WEIGHTS).read_bytes(), filters=[how]))
    _same_time(folder)
    return folder / PACKED


def unpack(folder: Path) -> Path:
    """Return a model's folder with plain weights, unpacking compressed ones if that has not been done.

    The plain file gets the compressed one's modification time, so that a new version is detected. Concurrent processes
    each write the same whole file atomically. If the folder is read-only, a copy in the user's cache is returned.

    Raises:
        UserError: if the compressed file is damaged, or neither folder can be written to.
    """
    packed = folder / PACKED
    if not packed.is_file() or _is_unpacked(folder, packed):
        return folder
    own = cache() / f"{folder.name}-{packed.stat().st_mtime_ns}"
    if _is_unpacked(own, packed):
        return own
    try:
        weights = lzma.decompress(packed.read_bytes())
    except lzma.LZMAError as error:
        raise UserError(f"{packed} is damaged: {error}; check it out or install it again") from error
    for target in (folder, own):
        try:
            if target == own:
                shutil.copytree(folder, own, dirs_exist_ok=True)
            write_atomically(target / WEIGHTS, weights)
            _same_time(target)
            return target
        except OSError as error:
            reason = error
    raise UserError(f"{packed} can be unpacked neither in its folder nor in {own}: {reason}; set XDG_CACHE_HOME")


def cache() -> Path:
    """Return the folder for weights that cannot be unpacked in place."""
    return expand("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "layerfit" / "models"


def _is_unpacked(folder: Path, packed: Path) -> bool:
    plain = folder / WEIGHTS
    return plain.is_file() and plain.stat().st_mtime_ns == packed.stat().st_mtime_ns


def _same_time(folder: Path) -> None:
    """Set the plain weights' modification time to that of the compressed ones."""
    time = (folder / PACKED).stat().st_mtime_ns
    os.utime(folder / WEIGHTS, ns=(time, time))
