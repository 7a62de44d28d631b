"""Weights that are shipped compressed, and unpacked at first use beside the file, where every loader looks for them.

transformers reads no compressed weights. xz keeps every bit, and takes a third off 16-bit numbers whose bytes it is
told to tell apart (gzip: a fifth).
"""

from __future__ import annotations

import lzma
import os
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


def unpack(folder: Path) -> None:
    """Write the plain weights of a model's folder, if it ships compressed ones and they are not written yet.

    The plain file bears the compressed one's time, so that another version is seen and unpacked again. Processes that
    do it at once write the same file, each whole.

    Raises:
        UserError: if the compressed file is damaged, or the folder cannot be written to.
    """
    plain, packed = folder / WEIGHTS, folder / PACKED
    if not packed.is_file() or (plain.is_file() and plain.stat().st_mtime_ns == packed.stat().st_mtime_ns):
        return
    try:
        write_atomically(plain, lzma.decompress(packed.read_bytes()))
        _same_time(folder)
    except lzma.LZMAError as error:
        raise UserError(f"{packed} is damaged: {error}; check it out or install it again") from error
    except OSError as error:
        fix = "run once any command on this model as a user who can write there"
        raise UserError(f"{packed} cannot be unpacked beside itself: {error}; {fix}") from error


def _same_time(folder: Path) -> None:
    """Give the plain weights the time of the compressed ones."""
    time = (folder / PACKED).stat().st_mtime_ns
    os.utime(folder / WEIGHTS, ns=(time, time))
