"""One data file to rows: Parquet, JSON Lines, a JSON list, CSV. Every data file is read here.

A mistake is named by file and line (by row in Parquet, which has no lines), counted from 1.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerfit.data.json_rows import MalformedText, Numbered, RawRow, rows_of_json, rows_of_line, short
from layerfit.errors import UserError
from layerfit.files.dataset_folder import SHOWN, format_of
from layerfit.files.paths import check_kind
from layerfit.files.text_files import BOM, read_line, read_text

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

_JSON = ("jsonl", "ndjson", "json")
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_LONGEST_FIELD = 2**31 - 1
"""Characters in a field of CSV; Python's own bound is 131,072."""


class RowPlace(NamedTuple):
    """Where a row is. path: None = from the hub, which has no files; number: of its line or row, from 1."""

    path: Path | None
    number: int

    def __str__(self) -> str:
        """Return file and line (or row), for a message."""
        if self.path is None:
            return f"row {self.number}"
        between = ", row " if format_of(self.path.name) == "parquet" else ":"
        return f"{self.path}{between}{self.number}"


class Located(NamedTuple):
    """A row and its place."""

    row: RawRow
    place: RowPlace


def read_located(path: Path) -> list[Located]:
    """Return the rows of one file with their places.

    Raises:
        UserError: if the file does not hold rows, naming it and the line.
    """
    return [Located(row, RowPlace(path, number)) for number, row in _numbered(path)]


def read_file(path: Path) -> list[RawRow]:
    """Return the rows of one file, as `read_located`."""
    return [row for _, row in _numbered(path)]


def _numbered(path: Path) -> list[Numbered]:
    form = _known_format(path)
    if form == "parquet":
        return list(enumerate(read_parquet(path).to_pylist(), 1))
    text = read_text(path)
    try:
        return list(_csv_rows(text, _SEPARATORS[form])) if form in _SEPARATORS else rows_of_json(text)
    except MalformedText as error:
        raise UserError(f"{path}:{error.line}: {error}") from error


def _known_format(path: Path) -> str:
    form = format_of(path.name)
    if form is None:
        raise UserError(f"{path} is of a kind that is not read; give a file {SHOWN}")
    return form


def first_row(path: Path) -> RawRow | None:
    """Return the first row of a file without reading the rest (of JSON Lines and Parquet); None if it has no rows."""
    form = _known_format(path)
    if form == "parquet":
        batch = next(_parquet(path).iter_batches(batch_size=1), None)
        return batch.to_pylist()[0] if batch is not None and batch.num_rows else None
    if form in ("jsonl", "ndjson"):
        line = (read_line(path) or "").strip(f" \t\r\n{BOM}")
        if line.startswith("{"):
            try:
                return rows_of_line(1, line)
            except MalformedText:
                pass  # perhaps an object over several lines; else the whole file's error has the line
    return next(iter(read_file(path)), None)


def count_rows(paths: list[Path], most: int) -> int | None:
    """Return the number of rows of files; None if they are text of more than `most` bytes, which is not read."""
    if all(format_of(path.name) == "parquet" for path in paths):
        return sum(_parquet(path).metadata.num_rows for path in paths)
    small = sum(path.stat().st_size for path in paths) <= most
    return sum(len(read_file(path)) for path in paths) if small else None


def _csv_rows(text: str, separator: str) -> Iterator[Numbered]:
    """Yield the rows of CSV with a header; a row has the line where it ends if it has line breaks in quotes.

    Raises:
        MalformedText: if the header has a name twice or none, or a row is longer or shorter than it.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    try:
        for fields in lines:
            if not fields:
                continue
            if not header:
                header = _header(fields, lines.line_num)
            elif len(fields) != len(header):
                raise MalformedText(lines.line_num, f"{len(fields)} fields, but the header has {len(header)}")
            else:
                yield lines.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise MalformedText(lines.line_num, f"it is not CSV: {error}") from error


def _header(fields: list[str], line: int) -> list[str]:
    names = [field.strip() for field in fields]
    if wrong := next((name for name in names if not name or names.count(name) > 1), None):
        raise MalformedText(line, f"the header has the column {short(wrong)} twice; keep one")
    if "" in names:
        raise MalformedText(line, f"column {names.index('') + 1} of the header has no name")
    if len(names) == 1 and (other := next((c for c in (";", "\t", "|") if c in names[0]), None)):
        raise MalformedText(line, f"the columns are separated by {other!r}; write CSV with ',' or .tsv with tabs")
    return names


def _parquet(path: Path) -> ParquetFile:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    check_kind("dataset.path", path)
    try:
        found = ParquetFile(path)
        names = found.schema_arrow.names
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not Parquet: {' '.join(str(error).split())}") from error
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path} has the column {twice!r} twice; keep one")
    return found


def read_parquet(path: Path) -> Table:
    """Return the table of a Parquet file.

    Raises:
        UserError: if it is not one, or is damaged.
    """
    import pyarrow

    file = _parquet(path)
    try:
        return file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is a damaged Parquet file: {' '.join(str(error).split())}; copy it again") from error
