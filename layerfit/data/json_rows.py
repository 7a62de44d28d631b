"""Rows of JSON text, each with its line: JSON Lines, a list, or LMFlow's object with a list `instances`.

Stricter than Python's `json`: a key twice in one object is refused, and every mistake has its true line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from layerfit.files.text_files import BOM

RawRow = dict[str, Any]
"""A row as in its file, by column; not yet checked against a form."""
Numbered = tuple[int, RawRow]
"""A row after its number: the line where it starts, or its place in a file without lines; counted from 1."""
_SPACE = re.compile(rf"[ \t\n{BOM}]*")
_LONGEST_SHOWN = 200
_CONVERSATION = ("messages", "conversations")


class MalformedText(ValueError):
    """Text that is not what its file's name says. line: counted from 1, as an editor does."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class _KeyTwice(ValueError):
    """An object with one key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _KeyTwice(next(key for key in keys if keys.count(key) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


class _Cursor:
    """A place in JSON text. line: counted from 1."""

    def __init__(self, text: str, line: int = 1) -> None:
        self.text, self.at, self.line = text, 0, line
        self.skip()

    def _move(self, at: int) -> None:
        self.line += self.text.count("\n", self.at, at)
        self.at = at

    def skip(self) -> str:
        """Go past white space; return the character there, "" at the end."""
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self._move(match.end())
        return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """Return the value that starts here, and go past it and the white space behind it."""
        try:
            found, end = _DECODER.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            line = self.line + self.text.count("\n", self.at, error.pos)
            raise MalformedText(line, f"it is not JSON: {error.msg} (column {error.colno})") from error
        except _KeyTwice as error:
            raise MalformedText(self.line, f"an object has the key {short(error.args[0])} twice; keep one") from error
        except RecursionError as error:
            raise MalformedText(self.line, "lists or objects are nested too deeply; leave that column out") from error
        except ValueError as error:
            raise MalformedText(self.line, "a number has too many digits; write it as text") from error
        self._move(end)
        self.skip()
        return found

    def elements(self) -> Iterator[tuple[int, Any]]:
        """Yield the elements of the list that starts here, each with its line, and go past it."""
        self._expect("[")
        if self.skip() == "]":
            self._expect("]")
            return
        while True:
            line = self.line
            yield line, self.value()
            if self.skip() == "]":
                self._expect("]")
                return
            self._expect(",")

    def enter(self, key: str) -> None:
        """Go to the value of a key of the object that starts here."""
        self._expect("{")
        while self.value() != key:
            self._expect(":")
            self.value()
            self._expect(",")
        self._expect(":")

    def _expect(self, character: str) -> None:
        if self.skip() != character:
            column = self.at - (self.text.rfind("\n", 0, self.at) + 1) + 1
            raise MalformedText(self.line, f"it is not JSON: Expecting {character!r} (column {column})")
        self._move(self.at + 1)
        self.skip()

    def end(self) -> None:
        """Raise MalformedText if more follows."""
        if self.skip():
            raise MalformedText(self.line, "more follows after the end of the JSON value; write one object per line")


def short(value: object) -> str:
    """Return a value as Python writes it, for a message: one line, at most 200 characters."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def kind_of(value: Any) -> str:
    """Return what a value is, in words."""
    if isinstance(value, float) and value != value:
        return "NaN"
    names = ((bool, "a truth value"), (str, "text"), (int | float, "a number"), (list, "a list"), (dict, "an object"))
    return next(
        (name for kind, name in names if isinstance(value, kind)),
        "null" if value is None else f"of type {type(value).__name__}",
    )


def rows_of_json(text: str) -> list[Numbered]:
    """Return the rows of JSON text with their lines.

    Raises:
        MalformedText: if it is not JSON, or does not hold rows.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    cursor = _Cursor(text)
    if not cursor.skip():
        return []
    if cursor.skip() == "[":
        rows = [_row(*found) for found in cursor.elements()]
        cursor.end()
        return rows
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip(f" \t{BOM}")]
    try:
        first = rows_of_line(*lines[0])
    except MalformedText as error:
        return _one_object(text, error, lines[0][1])
    if len(lines) == 1:
        return _unwrapped(text, first)
    return [(lines[0][0], first), *((number, rows_of_line(number, line)) for number, line in lines[1:])]


def rows_of_line(number: int, line: str) -> RawRow:
    """Return the row of one line of JSON Lines.

    Raises:
        MalformedText: if it is not one JSON object.
    """
    cursor = _Cursor(line, number)
    found = cursor.value()
    cursor.end()
    return _row(number, found)[1]


def _row(line: int, found: Any) -> Numbered:
    if not isinstance(found, dict):
        raise MalformedText(line, f"a file must hold rows, one JSON object each; this is {kind_of(found)}")
    return line, found


def _one_object(text: str, error: MalformedText, first: str) -> list[Numbered]:
    """Return the rows of an object over several lines; otherwise its first line is the mistake."""
    cursor = _Cursor(text)
    try:
        found = cursor.value()
    except MalformedText as whole:
        pretty = first.strip()[-1:] in ("{", "[")
        raise (whole if pretty else error) from None
    if not isinstance(found, dict):
        raise error
    cursor.end()
    rows = _unwrapped(text, found)
    if rows[0][1] is found:
        what = "the file is one JSON object, not rows; write a list of objects, or one object per line"
        raise MalformedText(1, what)
    return rows


def _unwrapped(text: str, found: RawRow) -> list[Numbered]:
    """Return the rows of a file that is one object: of LMFlow's `instances`, else the object itself.

    Raises:
        MalformedText: if another key holds the rows, or the object is a table by columns.
    """
    lists = {key: value for key, value in found.items() if isinstance(value, list) and key not in _CONVERSATION}
    if "instances" in lists and set(found) <= {"type", "instances"}:
        cursor = _Cursor(text)
        cursor.enter("instances")
        return [_row(*one) for one in cursor.elements()]
    for key, value in lists.items():
        if value and all(isinstance(row, dict) for row in value) and not set(found) & set(_CONVERSATION):
            fix = f"write that list alone: jq '.{key}' FILE > rows.json"
            raise MalformedText(1, f"the file is one JSON object, whose key {short(key)} holds the rows; {fix}")
    if found and all(isinstance(value, dict) for value in found.values()):
        raise MalformedText(1, "the file is a table by columns; write it by rows (in pandas: orient='records')")
    return [(1, found)]
