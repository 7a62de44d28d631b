"""From exchanges to tokens and labels.

An exchange is tokenised as one text, so that training uses the tokens that evaluation scores (lm-eval does the same).
Where a token would span prompt and response, the two are tokenised separately, so the prompt has the tokens that it
has at inference. The end-of-text token closes every response and is a target; chat templates close their responses
themselves, and their conversations are tokenised as one text each. Special tokens written in a row's own text are
plain text (`layerfit.data.own_tokens`).

Rows of running text have no requests: their tokens are one stream, cut into pieces of equal length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from layerfit.data.own_tokens import SpecialWords, has_hidden
from layerfit.data.templates import Exchange
from layerfit.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
EMPTY, NO_TARGET = "empty response", "no target"
_CHUNK = 2048

Ids = np.ndarray


@dataclass(frozen=True)
class Example:
    """One row in tokens.

    ids: [n] int32. labels: [n] int32, the token itself where it is a target, else -100. The first token is never a
    target: nothing predicts it. truncated: whether tokens were cut.
    """

    ids: Ids
    labels: Ids
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_targets(self) -> int:
        """Number of tokens in the loss."""
        return int((self.labels != IGNORE).sum())


Tokenised = Example | str
"""A row in tokens, or the reason for dropping it."""


def _first_response_token(encoding: Encoding, prompt: str, text: str) -> int:
    """Return the index of the first token with a character of `text` past `prompt`, or the number of tokens."""
    for position in range(len(prompt), len(text)):  # more than one iteration only if a tokenizer trims spaces
        token = encoding.char_to_token(position)
        if token is not None:
            return token
    return len(encoding.ids)


def _encode(rows: list[list[Exchange]], tokenizer: PreTrainedTokenizerBase, *, special: bool) -> Iterator[Encoding]:
    """Tokenise rows, the exchanges of each joined to one text."""
    for start in range(0, len(rows), _CHUNK):
        texts = ["".join(x.prompt + x.response for x in row) for row in rows[start : start + _CHUNK]]
        verbatim = rows[start][0].verbatim
        batch = tokenizer(texts, add_special_tokens=special, split_special_tokens=not verbatim, verbose=False)
        assert batch.encodings is not None, "load_tokenizer lets only fast tokenizers through"
        yield from batch.encodings


@dataclass(frozen=True)
class _Part:
    """One exchange in tokens. first: index of the first response token. opened: whether it begins with a bos token.

    trained: whether the response is a target.
    """

    ids: list[int]
    first: int
    opened: bool
    trained: bool


def _apart(exchange: Exchange, tokenizer: PreTrainedTokenizerBase, *, special: bool) -> tuple[list[int], int]:
    """Tokenise prompt and response separately, for a response whose first characters merge with the prompt's last."""
    # A line break goes before the response and is dropped again: at the start of a text sentencepiece adds a space.
    plain = {"split_special_tokens": True, "verbose": False}
    prompt = list(tokenizer(exchange.prompt, add_special_tokens=special, **plain).input_ids)
    answer = tokenizer("\n" + exchange.response, add_special_tokens=False, return_offsets_mapping=True, **plain)
    rest = [token for token, (_, end) in zip(answer.input_ids, answer.offset_mapping, strict=True) if end > 1]
    if special and prompt and prompt[-1] == tokenizer.eos_token_id:
        prompt.pop()
    return prompt + rest, len(prompt)


def _part(exchange: Exchange, encoding: Encoding, tokenizer: PreTrainedTokenizerBase, *, special: bool) -> _Part:
    ids, mask = list(encoding.ids), encoding.special_tokens_mask
    opened = bool(ids) and bool(mask[0])
    first = _first_response_token(encoding, exchange.prompt, exchange.prompt + exchange.response)
    span = encoding.token_to_chars(first) if first < len(ids) else None
    if span is not None and span[0] < len(exchange.prompt):
        ids, first = _apart(exchange, tokenizer, special=special)
    elif special and ids and ids[-1] == tokenizer.eos_token_id and mask[-1]:
        ids.pop()  # this tokenizer adds eos itself; it is appended below
    return _Part([*ids, tokenizer.eos_token_id], min(first, len(ids)), opened, exchange.trained)


def _pieces_apart(text: str, tokenizer: PreTrainedTokenizerBase, words: SpecialWords) -> tuple[list[int], list[int]]:
    """Return ids and first characters of a chat's text whose hidden words are plain text, and the others special."""
    ids: list[int] = []
    starts: list[int] = []
    at, before = 0, 0
    for found in [*words.pattern.finditer(text), None]:
        plain = words.show(text[before : found.start() if found else len(text)])
        piece = tokenizer(
            plain, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        ids += piece.input_ids
        starts += [at + start for start, _ in piece.offset_mapping]
        at += len(plain)
        if found is not None:
            (special,) = tokenizer.convert_tokens_to_ids([found[0]])  # type: ignore[misc]
            ids.append(special)
            starts.append(at)
            at, before = at + len(found[0]), found.end()
    return ids, starts


def _guarded(
    row: list[Exchange], tokenizer: PreTrainedTokenizerBase, words: SpecialWords
) -> tuple[list[Exchange], list[int], list[int]]:
    """Return a row of a chat that has hidden words, with these as plain text, and the ids and first characters.

    Raises:
        UserError: if this tokenizer reads the text between two special tokens otherwise when it stands alone.
    """
    text = "".join(x.prompt + x.response for x in row)
    neutral = words.without(text)
    ordinary = list(tokenizer(neutral, add_special_tokens=False, verbose=False).input_ids)
    if _pieces_apart(neutral, tokenizer, words)[0] != ordinary:
        raise UserError(
            f"a message has {words.hidden(text)[0]}, a special token, which this tokenizer cannot read as plain text "
            "under dataset.template=chat; write it otherwise, or set dataset.template=alpaca"
        )
    shown = [replace(x, prompt=words.show(x.prompt), response=words.show(x.response)) for x in row]
    return shown, *_pieces_apart(text, tokenizer, words)


def _conversation(
    row: list[Exchange], ids: list[int], firsts: list[int], tokenizer: PreTrainedTokenizerBase
) -> list[_Part]:
    """Return the exchanges of a row tokenised as one text; a token belongs to the part with its first character."""
    starts = np.array(firsts)
    borders = np.cumsum([0, *(len(text) for x in row for text in (x.prompt, x.response))])  # in characters
    edges = np.searchsorted(starts, borders)  # in tokens
    edges[-1] = len(ids)
    opened = ids[:1] == [tokenizer.bos_token_id]
    return [
        _Part(ids[start:end], int(first - start), opened and start == 0, exchange.trained)
        for exchange, start, first, end in zip(row, edges[:-1:2], edges[1::2], edges[2::2], strict=True)
    ]


def cut(num_prompt: int, num_rest: int, max_length: int) -> tuple[int, int]:
    """Return the number of prompt and response tokens kept: the prompt is cut first, down to one token.

    That token predicts the first response token.
    """
    kept_prompt = min(num_prompt, max(1, max_length - num_rest))
    return kept_prompt, min(num_rest, max_length - kept_prompt)


def _assemble(parts: list[_Part], max_length: int | None, *, loss_on_prompt: bool) -> Example | None:
    """Join an example's exchanges and cut them to `max_length`; None if no target is left.

    The first prompt is cut on the left (a leading bos token stays), then the rest on the right.
    """
    ids = np.concatenate([np.asarray(part.ids, np.int32) for part in parts])
    answer = np.concatenate([np.arange(len(part.ids)) >= part.first for part in parts])
    response = answer & np.concatenate([np.full(len(part.ids), part.trained) for part in parts])
    if not response.any():
        return None
    length, num_prompt = len(ids), int(response.argmax())
    truncated = max_length is not None and length > max_length
    if truncated:
        assert max_length is not None
        kept_prompt, kept_rest = cut(num_prompt, length - num_prompt, max_length)
        keep = np.arange(num_prompt - kept_prompt, num_prompt + kept_rest)
        if kept_prompt and parts[0].opened:
            keep[0] = 0
        ids, answer, response = ids[keep], answer[keep], response[keep]
    labels = np.where(response | (loss_on_prompt & ~answer), ids, IGNORE).astype(np.int32)
    labels[0] = IGNORE
    example = Example(ids, labels, truncated)
    return example if example.num_targets else None


def tokenise_rows(
    rows: list[list[Exchange]], tokenizer: PreTrainedTokenizerBase, max_length: int | None, *, loss_on_prompt: bool
) -> list[Tokenised]:
    """Return every row of exchanges in tokens, in order, or the reason for dropping it.

    Truncation (to `max_length`; None = no truncation) never leaves an example without a target. Special tokens (bos)
    are added once, at the start of a row.
    """
    rows_kept = [[x for x in row if x.response.strip()] for row in rows]
    apart = [row for row in rows_kept if row and not row[0].verbatim]
    opening = _encode([row[:1] for row in apart], tokenizer, special=True)
    follower = _encode([[x] for row in apart for x in row[1:]], tokenizer, special=False)
    chats = [row for row in rows_kept if row and row[0].verbatim]
    whole = _encode(chats, tokenizer, special=False)
    words = SpecialWords(tokenizer) if chats else None
    out: list[Tokenised] = []
    for row in rows_kept:
        if not row:
            out.append(EMPTY)
            continue
        if row[0].verbatim:
            encoding = next(whole)
            told, ids, starts = row, list(encoding.ids), [start for start, _ in encoding.offsets]
            if words is not None and any(has_hidden(x.prompt + x.response) for x in row):
                told, ids, starts = _guarded(row, tokenizer, words)
            parts = _conversation(told, ids, starts, tokenizer)
        else:
            parts = [_part(row[0], next(opening), tokenizer, special=True)]
            parts += [_part(x, next(follower), tokenizer, special=False) for x in row[1:]]
        out.append(_assemble(parts, max_length, loss_on_prompt=loss_on_prompt) or NO_TARGET)
    return out


def sift(rows: Iterable[Tokenised]) -> tuple[list[Example], dict[str, int]]:
    """Return the examples, and the number of dropped rows by reason."""
    examples, dropped = [], Counter[str]()
    for row in rows:
        if isinstance(row, str):
            dropped[row] += 1
        else:
            examples.append(row)
    return examples, dict(sorted(dropped.items()))


def tokenise(
    rows: list[list[Exchange]], tokenizer: PreTrainedTokenizerBase, max_length: int, *, loss_on_prompt: bool
) -> tuple[list[Example], dict[str, int]]:
    """Return the examples of rows of exchanges, in order, and the number of dropped rows by reason."""
    return sift(tokenise_rows(rows, tokenizer, max_length, loss_on_prompt=loss_on_prompt))


def pieces(documents: list[Example], max_length: int) -> list[Example]:
    """Return running text as examples: the documents' tokens in one stream, cut every `max_length` tokens.

    Every token is a target except the first of each piece, which nothing predicts. The last piece may be shorter; a
    single token left at the end is dropped.
    """
    if not documents:
        return []
    stream = np.concatenate([document.ids for document in documents])
    out = []
    for start in range(0, len(stream), max_length):
        ids = stream[start : start + max_length]
        labels = ids.copy()
        labels[0] = IGNORE
        out.append(Example(ids, labels))
    return out if len(out[-1]) > 1 else out[:-1]
