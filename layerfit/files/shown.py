"""Text from outside (labels, names, replies of servers) as one harmless line, for terminals, logs and tables."""

from __future__ import annotations

import re

_LONGEST_WORD = 200
_SPACES = re.compile(r"[ \t\n\r\v\f\x85\u2028\u2029]+")
_ACTS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that a terminal or a browser acts on (escape sequences, changes of direction), and halves of pairs, which
no encoding has."""


def one_line(text: str) -> str:
    r"""Return text with white space as one space, and characters that act as their escapes: `\x1b`, `\u202e`."""
    return _ACTS.sub(lambda found: repr(found[0])[1:-1], _SPACES.sub(" ", text))


def whole_characters(text: str) -> str:
    """Return text that every encoding can write: a half of a surrogate pair becomes the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown(error: object) -> str:
    """Return a message as it is printed: `one_line`, and no word of thousands of letters."""
    line = one_line(str(error)).strip()
    return re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:80]}...{word[0][-20:]}", line)
