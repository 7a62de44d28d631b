"""Keys and passwords: read here, and taken out of everything that is written or printed by `hide`, the one place.

Known are the keys that were read, the values of environment variables that are named like one (HF_TOKEN,
WANDB_API_KEY), and what looks like one: passwords in addresses, tokens in queries, Authorization headers.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import IO, Any, cast

from layerfit.errors import UserError

HIDDEN = "[hidden]"
_SHORTEST = 8
"""Characters. Less, or a short plain word or number, is a placeholder (`EMPTY`): hiding it would damage text."""
_NAMED_LIKE_ONE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|_PAT)S?$", re.IGNORECASE)
_PASSWORD = re.compile(r"(://)[^/\s\"'<>?#]*(?=@)")
_QUERY = re.compile(
    r"([?&](?:[\w-]*(?:key|token|secret|passw\w*|signature|credential)|sig|auth|pwd?)=)[^&\s\"'<>#]+", re.IGNORECASE
)
_HEADER = re.compile(
    r"((?:authorization|x-api-key|api-key)[\"']?\s*[:=]\s*b?[\"']?(?:(?:bearer|basic|token)\s+)?)(?!bearer|basic|token)[^\s\"',;}\[\]]{6,}",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"(\bbearer\s+)(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}", re.IGNORECASE)
_ISSUED = re.compile(r"()(?:\bsk-[\w*-]{12,}|\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,})")
_SHAPES = (_PASSWORD, _QUERY, _HEADER, _SCHEME, _ISSUED)
"""What looks like a secret; the first group of each stays."""
_read: set[str] = set()


def read_key(setting: str, variable: str) -> str:
    """Return the key in an environment variable, without white space around it; from then on it is hidden.

    Raises:
        UserError: naming `setting`, if there is none, or no header can carry it. The key is never shown, nor is a
            `variable` that is not named like one: it may be the key itself.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        named = variable in os.environ or re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", variable) is not None
        shown = f"{setting}={variable} is not set" if named else f"{setting} names no variable that is set"
        raise UserError(
            f"{shown} in the environment; export the judge's key in a variable, JUDGE_KEY for example, and give its "
            f"name, or set {setting}=null for a server that needs none"
        )
    _read.add(key)
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UserError(
            f"the key in {setting}={variable} has a space, a line break or a letter beyond ASCII in it; copy it again"
        )
    return key


def hide(text: str) -> str:
    """Return text without keys and passwords."""
    out = hide_known(text)
    for shape in _SHAPES:
        out = shape.sub(rf"\1{HIDDEN}", out)
    return out


def hide_known(text: str) -> str:
    """Return text without the keys of this process; what only looks like one stays (a judge may quote code)."""
    named = (value for name, value in os.environ.items() if _NAMED_LIKE_ONE.search(name))
    found = _pattern(frozenset(value for value in (*_read, *named) if _is_secret(value)))
    return found.sub(HIDDEN, text) if found is not None else text


def hide_in(value: Any) -> Any:
    """Return JSON data with every text in it hidden, keys of objects too."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {hide(key) if isinstance(key, str) else key: hide_in(item) for key, item in value.items()}
    return [hide_in(item) for item in value] if isinstance(value, list | tuple) else value


def _is_secret(value: str) -> bool:
    plain = value.strip()
    return len(plain) >= _SHORTEST and not re.fullmatch(
        r"[a-z]{,15}|[A-Z]{,15}|[\d.]{,15}|[./~].*", plain
    )  # `.*`: a file's path


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    """Return a pattern of all ways in which some secrets are written, longest first."""
    forms = {form for secret in secrets for plain in {secret, secret.strip()} for form in _forms(plain)}
    return re.compile("|".join(map(re.escape, sorted(forms, key=lambda f: (-len(f), f))))) if forms else None


def _forms(secret: str) -> set[str]:
    """Return a secret as it is, in JSON, in Python's quotes, in an address, and in base64."""
    raw = secret.encode(errors="surrogateescape")
    coded = {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    quoted = {urllib.parse.quote(raw), urllib.parse.quote(raw, safe=""), urllib.parse.quote_plus(raw)}
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], *quoted, *(form.rstrip("=") for form in coded)}


class _Hiding:
    """A stream that hides secrets in what is written to it; everything else is the stream's own."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, hidden."""
        self._stream.write(hide(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write lines, hidden."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def hide_output() -> None:
    """Hide secrets in all that Python prints from now on: for a process that executes one run."""
    if not isinstance(sys.stdout, _Hiding):
        sys.stdout, sys.stderr = cast("IO[str]", _Hiding(sys.stdout)), cast("IO[str]", _Hiding(sys.stderr))


@contextmanager
def hidden_output() -> Iterator[None]:
    """Hide secrets in all that Python prints inside the block, and in the traceback of an error that leaves it."""
    streams, shows = (sys.stdout, sys.stderr), sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        hide_output()
        shows(kind, error, trace)

    hide_output()
    sys.excepthook = hook  # an error is shown after the block has been left
    try:
        yield
    except BaseException:
        sys.stdout, sys.stderr = streams
        raise
    sys.excepthook = shows
    sys.stdout, sys.stderr = streams
