"""Special tokens written in the data's own text: `<s>` at its start, `</s>` at its end, or quoted in the middle.

A text gets one bos and one eos token, and those are ours: its own at the ends are taken off. Others in the middle are
text like any other: a quoted `</s>` is not the end of a text, and a message cannot forge a turn of a chat template.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from layerfit.data.turns import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Around the number of a hidden word. Unicode gives these two no character; a text that has them all the same has them
hidden too."""
_HIDDEN = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


class SpecialWords:
    """The special tokens of a tokenizer, as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
        self.words = sorted(filter(None, special), key=lambda word: (-len(word), word))
        self.pattern = re.compile("|".join(map(re.escape, self.words)) or "(?!)")
        self._marked = [*self.words, _OPEN, _CLOSE]
        self._hides = re.compile("|".join(map(re.escape, self._marked)))
        self.bos, self.eos = str(tokenizer.bos_token or ""), str(tokenizer.eos_token or "")

    def hide(self, text: str) -> str:
        """Return a text whose special words are hidden from the tokenizer, until `show`."""
        return self._hides.sub(lambda found: f"{_OPEN}{self._marked.index(found[0])}{_CLOSE}", text)

    def show(self, text: str) -> str:
        """Return a text with its hidden words."""
        return _HIDDEN.sub(lambda found: self._marked[int(found[1])], text)

    def hidden(self, text: str) -> list[str]:
        """Return the hidden words of a text."""
        return [self._marked[int(number)] for number in _HIDDEN.findall(text)]

    def without(self, text: str) -> str:
        """Return a text with an ordinary word in place of each hidden one."""
        return _HIDDEN.sub("x", text)


def has_hidden(text: str) -> bool:
    """Return whether a text has hidden words."""
    return _OPEN in text


def without_own(read: Iterable[list[Turn]], words: SpecialWords) -> tuple[list[list[Turn]], Counter[str]]:
    """Return rows without their own bos and eos tokens at the ends, and what was found, by reason."""
    changes: Counter[str] = Counter()
    return [[_without_own(turn, words, changes) for turn in row] for row in read], changes


def _without_own(turn: Turn, words: SpecialWords, changes: Counter[str]) -> Turn:
    texts = {name: getattr(turn, name) for name in ("system", "request", "context", "answer")}
    if not any(words.pattern.search(text) for text in texts.values()):
        return turn
    opening = next(name for name, text in texts.items() if text)
    if words.bos and (start := texts[opening].lstrip()).startswith(words.bos):
        texts[opening] = start.removeprefix(words.bos)
        changes[f"own {words.bos} at the start taken off"] += 1
    if words.eos and (end := texts["answer"].rstrip()).endswith(words.eos):
        texts["answer"] = end.removesuffix(words.eos)
        changes[f"own {words.eos} at the end taken off"] += 1
    quoted = sum(len(words.pattern.findall(text)) for text in texts.values())
    changes["special tokens in the text, read as plain text"] += quoted
    return replace(turn, **texts)
