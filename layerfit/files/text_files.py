"""The text of a data file: regular files only, through gzip, in UTF-8 with or without a byte order mark."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from layerfit.errors import UserError
from layerfit.files.paths import check_kind

BOM = "\ufeff"
_GZIP = b"\x1f\x8b"
_OTHER_FORMATS = {
    b"PAR1": "Parquet; name it .parquet",
    b"PK\x03\x04": "a ZIP archive (or a spreadsheet); unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it, or use gzip",
    b"BZh": "compressed by bzip2; unpack it, or use gzip",
    b"\xfd7zXZ": "compressed by xz; unpack it, or use gzip",
    b"SQLite format 3": "an SQLite database; export its rows as JSON Lines",
}
"""First bytes of files that are no text, and what to do with them."""
_WIDE = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order marks of encodings that are not read."""


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a data file, through gzip if its name or its first bytes say so.

    Raises:
        UserError: if it is no regular file, cannot be read or, during reading, is not a whole gzip file.
    """
    check_kind("dataset.path", path)
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP or path.suffix.lower() == ".gz"
            file.seek(0)
            if not packed:
                yield file
                return
            with gzip.open(file) as unpacked:
                yield unpacked  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file: {error}; copy it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """Return the text of a file, without its byte order mark; line ends as they are.

    Raises:
        UserError: as `open_bytes`, or if it is not UTF-8 text; the message has the line, counted from 1.
    """
    with open_bytes(path) as file:
        data = file.read()
    try:
        check_text(path, data[:64])
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(path, data, error.start)) from error


def read_line(path: Path) -> str | None:
    """Return the first line of a file that is not blank, None if there is none; the rest is not read."""
    with open_bytes(path) as file:
        head = file.read(64)
        check_text(path, head)
        file.seek(0)
        try:
            lines = io.TextIOWrapper(file, encoding="utf-8-sig")
            found = next((line for line in lines if line.strip()), None)
            lines.detach()
        except UnicodeDecodeError:
            found = None
        else:
            return found
    read_text(path)  # raises, with the line
    return found


def check_text(path: Path, head: bytes) -> None:
    """Raise UserError if a file's first bytes are those of another format or another encoding."""
    for start, what in _OTHER_FORMATS.items():
        if head.startswith(start):
            raise UserError(f"{path} is {what}")
    encoding = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    if encoding is None and b"\0" in head[:2]:  # text in UTF-16 without a mark: every other byte is 0
        encoding = "utf-16be" if head[:1] == b"\0" else "utf-16le"
    if encoding is not None:
        raise UserError(f"{path}:1: it is {encoding.upper()}, not UTF-8 text; {_convert(path, encoding)}")


def _not_utf8(path: Path, data: bytes, start: int) -> str:
    line = data[:start].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
    around = data[max(0, start - 200) : start + 200]
    if any(byte < 32 and byte not in b"\t\r\n\f" for byte in around):
        return f"{path}:{line}: it is not UTF-8 text but binary (byte 0x{data[start]:02x}); give a file of rows"
    place = f"{path}:{line}: it is not UTF-8 text (byte 0x{data[start]:02x})"
    return f"{place}; it looks like Windows-1252 or Latin-1: {_convert(path, 'windows-1252')}"


def _convert(path: Path, encoding: str) -> str:
    return f"convert it: iconv -f {encoding} -t utf-8 '{path.name}' > utf8.{path.name.split('.', 1)[-1]}"
