"""Weights that are shipped compressed, and unpacked at first use beside the file, where every loader looks for them.

transformers reads no compressed weights. xz keeps every bit, and takes a third off 16-bit numbers whose bytes it is
told to tell apart (gzip: a fifth).
"""

from __future__ import annotations

import lzma
import os
import shutil
from pathlib import Path

from layerfit.errors import UserError
from layerfit.records.record import write_atomically

WEIGHTS, PACKED = "model.safetensors", "model.safetensors.xz"


def pack(folder: Path, bytes_a_number: int) -> Path:
    """Write a model's compressed weights beside the plain ones; return their file. `bytes_a_number`: 2 or 4."""
    bits = {2: 1, 4: 2}[bytes_a_number]  # of a byte's place in its number, which its coding then depends on
    how = {"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4 - bits, "lp": bits, "pb": bits}
    write_atomically(folder / PACKED, lzma.compress((folder / WEIGHTS).read_bytes(), filters=[how]))
    _same_time(folder)
    return folder / PACKED


def unpack(folder: Path) -> Path:
    """Return a model's folder with plain weights, written now if it ships compressed ones and they are not there yet.

    The plain file bears the compressed one's time, so that another version is seen and unpacked again. Processes that
    do it at once write the same file, each whole. Where the folder cannot be written to, its copy in the user's cache
    is returned.

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
    raise UserError(f"{packed} can be unpacked neither beside itself nor in {own}: {reason}; set XDG_CACHE_HOME")


def cache() -> Path:
    """Return where weights are unpacked that cannot be unpacked in place."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "layerfit" / "models"


def _is_unpacked(folder: Path, packed: Path) -> bool:
    plain = folder / WEIGHTS
    return plain.is_file() and plain.stat().st_mtime_ns == packed.stat().st_mtime_ns


def _same_time(folder: Path) -> None:
    """Give the plain weights the time of the compressed ones."""
    time = (folder / PACKED).stat().st_mtime_ns
    os.utime(folder / WEIGHTS, ns=(time, time))
