"""The tables of the slides' text, where a copy of it is at hand: tab-separated lines, bold as <b>.

Only tests read it: what a user sees is transcribed in `conf/table`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PAPERS = Path(__file__).resolve().parents[3] / "shared" / "papers"
NUMBER = re.compile(r"\d+(?:\.\d+)?(?: ± \d+\.\d+)?")
Numbers = dict[tuple[str, str], str]
"""(row, column) -> the number as printed, in ** ** where it is bold."""


@dataclass(frozen=True)
class Table:
    """A table as it stands: the heading above it, its header lines, its other lines."""

    heading: str
    header: tuple[tuple[str, ...], ...]
    body: tuple[tuple[str, ...], ...]


def plain(cell: str) -> str:
    """Return a cell without its marks: bold, subscript, formula."""
    return re.sub(r"</?(b|sub)>|[$\\\[\]]", "", cell).strip()


def is_number(cell: str) -> bool:
    return NUMBER.fullmatch(plain(cell)) is not None


def printed(cell: str) -> str:
    """Return a number as a spec writes it."""
    return f"**{plain(cell)}**" if cell.startswith("<b>") and cell.endswith("</b>") else plain(cell)


def tables(text: str) -> list[Table]:
    """Return all tables in order. A line without a number, and without a - for one, begins a table or goes on with its
    header."""
    out: list[Table] = []
    heading, header, body = "", [], []
    for line in [*text.splitlines(), ""]:
        cells = tuple(line.split("\t"))
        is_row = len(cells) > 1
        is_body = is_row and any(is_number(cell) or cell == "-" for cell in cells)
        if body and not is_body:
            out.append(Table(heading, tuple(header), tuple(body)))
            header, body = [], []
        if is_body:
            body.append(cells)
        elif is_row:
            header.append(cells)
        if line.startswith("# "):
            heading = line.removeprefix("# ").removeprefix("» ").strip()
    return out


def numbers(table: Table, labels: int, row: Callable[..., str], column: Callable[..., str]) -> Numbers:
    """Return a table's numbers by row and column.

    labels: columns in front that hold labels; an empty one repeats the one above. row: label cells -> the spec's label.
    column: the column's header cells from the top, an empty one repeating the one to its left -> the spec's label.
    """
    heads = [_filled(line[labels:]) for line in table.header]
    out: Numbers = {}
    above = ("",) * labels
    for line in table.body:
        above = tuple(plain(cell) or old for cell, old in zip(line, above, strict=False))
        for index, cell in enumerate(line[labels:]):
            if is_number(cell):
                place = column(*(head[index] for head in heads))
                key = (row(*above), place)
                assert key not in out, f"{key} twice"
                out[key] = printed(cell)
    return out


def _filled(cells: tuple[str, ...]) -> list[str]:
    out: list[str] = []
    for cell in cells:
        out.append(plain(cell) or (out[-1] if out else ""))
    return out
