"""Turns: what a row says, whatever its format; and notes of what was not taken over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layerfit.data.json_rows import kind_of, short
from layerfit.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Turn:
    """One request and its answer, as in the row. Text rows have an answer only.

    context: Alpaca's input. system: text of the system messages before the request. trained: whether the answer is a
    target; otherwise it is context for later turns.
    """

    request: str
    answer: str
    context: str = ""
    system: str = ""
    trained: bool = True

    @property
    def asked(self) -> str:
        """System text and request in one, for templates without a system field."""
        return "\n\n".join(part for part in (self.system, self.request) if part)


@dataclass
class Notes:
    """What was read otherwise than it stands in the rows. changes: number by reason. unread: columns with content."""

    changes: Counter[str] = field(default_factory=Counter)
    unread: set[str] = field(default_factory=set)


def text_in(row: Mapping[str, Any], key: str, form: str, *, optional: bool = False) -> str:
    """Return the text in a column. optional: null or no column is "".

    Raises:
        UserError: if it is not text, or not valid Unicode.
    """
    value = row.get(key)
    if optional and value is None:
        return ""
    if not isinstance(value, str):
        found = f"here it is {kind_of(value)}" if key in row else f"the row has {short(sorted(row))}"
        raise UserError(f"dataset.form={form} needs the text column {key!r}; {found}")
    return valid(value, f"dataset.form={form}: {key!r}")


def valid(value: str, where: str) -> str:
    """Return a text.

    Raises:
        UserError: if half of a surrogate pair is in it, which no tokenizer takes.
    """
    if not value.isascii() and (found := _SURROGATE.search(value)):
        raise UserError(
            f"{where} has half of a surrogate pair, \\u{ord(found[0]):04x}, at character {found.start() + 1}, "
            "which is not valid Unicode; remove it"
        )
    return value
