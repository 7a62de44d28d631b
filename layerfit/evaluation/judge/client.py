"""A judge at an OpenAI-compatible address: one request, asked again while that can help.

Asked again: time-outs, broken connections, 408, 409, 425, 429, 5xx, replies that are no JSON or hold no text. Not
asked again: every other status (a wrong key or model does not mend) and redirects (they would carry the key on).
"""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import json
import random
import ssl
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Event
from time import sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

AGAIN = (408, 409, 425, 429)
LONGEST_WAIT = 600.0
"""Seconds; a server that asks for a longer pause ends the run, which the same command continues."""

Messages = list[dict[str, str]]


class JudgeError(RuntimeError):
    """The judge does not answer. What it said before is kept."""


class _AgainError(Exception):
    """One attempt failed in a way that another may not. wait: seconds that the server asks for."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """What a judge said. model and fingerprint: what it reports about itself, None if it does not."""

    text: str
    model: str | None = None
    fingerprint: str | None = None
    finish: str | None = None


def host_of(url: str) -> str | None:
    """Return the host of an http(s) address, None if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 - raises for a port that is no number
    except ValueError:
        return None
    return parts.hostname if parts.scheme in ("http", "https") else None


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine; by its text alone, no name is looked up."""
    host = host_of(url)
    if host is None or host == "localhost":
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Server:
    """A judge's address and manners. base_wait_s: the first pause between attempts; it doubles, up to a minute."""

    base_url: str
    model: str
    key: str | None
    max_tokens: int
    timeout_s: float
    max_attempts: int
    parallel: int = 1
    base_wait_s: float = 1.0

    def reported(self) -> str:
        """Return how messages call the judge."""
        return f"judge {self.model} at {self.base_url}"

    def answer(self, conversations: list[Messages], keep: Callable[[int, Reply], None]) -> None:
        """Ask about every conversation, some at once; `keep` gets each reply with its index as it comes.

        Raises:
            JudgeError: on the first judgment that cannot be had; replies under way are kept before.
        """
        stop = Event()
        failures: list[JudgeError] = []

        def one(index: int, messages: Messages) -> None:
            if stop.is_set():
                return
            try:
                keep(index, self.ask(messages))
            except JudgeError as error:
                stop.set()
                failures.append(error)

        with ThreadPoolExecutor(self.parallel) as pool:
            futures = [pool.submit(one, index, messages) for index, messages in enumerate(conversations)]
            try:
                for future in futures:
                    future.result()
            finally:
                stop.set()  # an interrupt does not wait for what has not begun
        if failures:
            raise failures[0]

    def ask(self, messages: Messages) -> Reply:
        """Return the reply to one conversation.

        Raises:
            JudgeError: if the server refuses, or `max_attempts` attempts failed; in one line, with the last reason.
        """
        for attempt in range(1, self.max_attempts + 1):
            try:
                reply = self._once(messages)
                if reply.text.strip() or attempt == self.max_attempts:
                    return reply  # a judge that stays silent has given no rating, and is kept as such
                raise _AgainError("an empty reply")
            except _AgainError as error:
                if attempt == self.max_attempts:
                    raise JudgeError(f"{self.reported()}: {attempt} attempts failed, the last with {error}") from error
                if error.wait is not None and error.wait > LONGEST_WAIT:
                    raise JudgeError(f"{self.reported()} asks for a pause of {error.wait:.0f} s: {error}") from error
                backoff = min(60.0, self.base_wait_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
                sleep(max(backoff, error.wait or 0.0))
        raise AssertionError("the last attempt returns or raises")

    def _once(self, messages: Messages) -> Reply:
        import httpx2

        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens, "n": 1}
        headers = {"User-Agent": "layerfit"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.base_url.rstrip("/") + "/chat/completions"
        try:
            with self._client() as client, client.stream("POST", url, json=body, headers=headers) as response:
                if not response.is_success:
                    raise self._status(response)
                return _reply(_read(response, time.monotonic() + self.timeout_s))
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise _AgainError(f"a time-out after {self.timeout_s:g} s") from error
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise _AgainError(f"no connection: {error}") from error
        except (httpx2.LocalProtocolError, UnicodeEncodeError):  # their text, and so the chain's, may hold the key
            raise JudgeError(f"{self.reported()} cannot be asked: the key has characters no header may have") from None
        except httpx2.RequestError as error:
            raise _AgainError(f"a broken connection: {type(error).__name__}") from error

    def _client(self) -> httpx2.Client:
        """Return a client for one request: beside the minutes that a judge writes, a new connection costs nothing."""
        import httpx2

        # What is asked on this machine goes through no proxy; elsewhere the environment's proxy is taken.
        return httpx2.Client(verify=_certificates(), trust_env=not is_loopback(self.base_url), timeout=self.timeout_s)

    def _status(self, response: httpx2.Response) -> Exception:
        """Return what a status other than 2xx means."""
        said = f"HTTP {response.status_code}{_message(response, time.monotonic() + self.timeout_s)}"
        if response.status_code in AGAIN or response.status_code >= 500:
            return _AgainError(said, retry_after(response.headers.get("Retry-After")))
        return JudgeError(f"{self.reported()} refuses: {said}")


@cache
def _certificates() -> ssl.SSLContext:
    """Return the system's, not certifi's: a judge in a company's network may be known to those alone. Takes 0.1 s."""
    return ssl.create_default_context()


def _read(response: httpx2.Response, deadline: float) -> bytes:
    """Return a body; a server that trickles it is timed out as a whole, which no time-out of httpx2 does."""
    parts = []
    for part in response.iter_bytes():
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _message(response: httpx2.Response, deadline: float) -> str:
    """Return what the server says about an error, in one short line."""
    import httpx2

    try:
        text = _read(response, deadline)[:4096].decode(errors="replace")
    except (TimeoutError, httpx2.RequestError):
        return ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"]["message"])
    text = " ".join(text.split())[:200]
    return f" ({text})" if text else ""


def retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header (a number or a date), None without a usable one."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _reply(body: bytes) -> Reply:
    """Read a chat completion.

    Raises:
        _AgainError: if it is none.
    """
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise _AgainError(f"a reply that is no chat completion: {body[:80]!r}") from error
    if not isinstance(text, str | None):
        raise _AgainError(f"a reply without text: {str(text)[:80]}")
    return Reply(text or "", data.get("model"), data.get("system_fingerprint"), choice.get("finish_reason"))
