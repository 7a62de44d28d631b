"""Replies of a judge's server: read with a bound, parsed without trust. A reply may hold anything."""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerfit.files.secrets import hide, hide_known
from layerfit.files.shown import one_line, whole_characters

if TYPE_CHECKING:
    import httpx2

MOST_BYTES = 16 * 2**20
"""Of one reply, unpacked. A judgment has some thousand."""
LONGEST_MESSAGE = 200
"""Characters of a server's own words that an error shows."""
_UNSUPPORTED = re.compile(r"unsupported|(not|n.t) support|unrecognized|unknown|not permitted|instead", re.IGNORECASE)


class AgainError(Exception):
    """A retryable failure of one attempt. wait: seconds that the server asks for."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """A judge's reply. model, fingerprint and finish as the server reports them, None if it does not.

    parameters: what the server was asked with, apart from the conversation.
    """

    text: str
    model: str | None = None
    fingerprint: str | None = None
    finish: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


def quote_server(text: str) -> str:
    """Return a server's words for an error message: one harmless line, without keys, cut."""
    return one_line(hide(text)).strip()[:LONGEST_MESSAGE]


def read_body(response: httpx2.Response) -> bytes:
    """Return a body, unpacked here: a library would unpack a small reply to any size before it could be measured.

    Raises:
        AgainError: if it is too large, or packed in a way that was not asked for.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower() or "identity"
    if coding not in ("identity", "gzip"):
        raise AgainError(f"a reply packed as {quote_server(coding)}, which was not asked for")
    unpack = zlib.decompressobj(wbits=31) if coding == "gzip" else None
    parts, size = [], 0
    for raw in response.iter_raw():
        try:
            part = raw if unpack is None else unpack.decompress(raw, MOST_BYTES + 1 - size)
        except zlib.error as error:
            raise AgainError("a reply that is not the gzip that it says it is") from error
        parts.append(part)
        if (size := size + len(part)) > MOST_BYTES:
            raise AgainError(f"a reply of more than {MOST_BYTES // 2**20} MiB")
    return b"".join(parts)


def parse_reply(body: bytes, parameters: dict[str, Any]) -> Reply:
    """Parse a chat completion.

    Raises:
        AgainError: if it is not one.
    """
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        text = choice["message"]["content"]
        finish = choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        start = quote_server(body[:65536].decode(errors="replace"))[:80]
        raise AgainError(f"a reply that is not a chat completion: {start!r}") from error
    if not isinstance(text, str | None):
        raise AgainError(f"a reply without text: {quote_server(str(text)[:1000])[:80]}")
    model, fingerprint = _name(data.get("model")), _name(data.get("system_fingerprint"))
    return Reply(_kept(text or ""), model, fingerprint, _name(finish), parameters)


def _kept(text: str) -> str:
    """Return text as a file can keep it."""
    return whole_characters(hide_known(text))


def _name(value: object) -> str | None:
    """Return what a server calls something, None if that is no name."""
    return one_line(_kept(value))[:LONGEST_MESSAGE] if isinstance(value, str) else None


@dataclass(frozen=True)
class Refusal:
    """A server's error, in one short line, and the request's parameter that it does not take, if it names one."""

    said: str
    parameter: str | None


def parse_refusal(body: bytes, parameters: dict[str, Any]) -> Refusal:
    """Parse the body of an error. parameters: those of the request."""
    text, named = body.decode(errors="replace"), None
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        error = json.loads(text)["error"]
        named, text = error.get("param") if isinstance(error, dict) else None, str(error["message"])
    text = text[:65536]
    if not _UNSUPPORTED.search(text):
        return Refusal(quote_server(text), None)
    known = [name for name in parameters if name == named or (named is None and re.search(rf"\b{name}\b", text))]
    if "max_tokens" in known and "max_completion_tokens" not in text:  # it has no other name for it
        known.remove("max_tokens")
    return Refusal(quote_server(text), known[0] if known else None)
