"""A client of a judge at an OpenAI-compatible address, with retries.

Retried: time-outs, broken connections, 408, 409, 425, 429, 5xx, replies that are not JSON or have no text. Not retried:
every other status (a wrong key or model stays wrong) and redirects (they would pass the key to another host).
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
"""Seconds; if a server asks for a longer pause, the run fails, and the same command continues it."""

Messages = list[dict[str, str]]


class JudgeError(RuntimeError):
    """The judge does not answer. Earlier judgments are kept."""


class _AgainError(Exception):
    """A retryable failure of one attempt. wait: seconds that the server asks for."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """A judge's reply. model, fingerprint and finish as the server reports them, None if it does not."""

    text: str
    model: str | None = None
    fingerprint: str | None = None
    finish: str | None = None


def host_of(url: str) -> str | None:
    """Return the host of an http(s) address, None for any other text."""
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for an invalid port
    except ValueError:
        return None
    return parts.hostname if parts.scheme in ("http", "https") else None


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine, by its text alone: no DNS look-up."""
    host = host_of(url)
    if host is None or host == "localhost":
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Server:
    """A judge's server and retry settings. base_wait_s: first pause between attempts; it doubles, up to a minute."""

    base_url: str
    model: str
    key: str | None
    max_tokens: int
    timeout_s: float
    max_attempts: int
    parallel: int = 1
    base_wait_s: float = 1.0

    def reported(self) -> str:
        """Return the judge's name in error messages."""
        return f"judge {self.model} at {self.base_url}"

    def answer(self, conversations: list[Messages], keep: Callable[[int, Reply], None]) -> None:
        """Send every conversation, `parallel` at a time; `keep` gets each reply with its index as it arrives.

        Raises:
            JudgeError: on the first failed judgment, after replies in flight have been kept.
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
                stop.set()  # after an interrupt, requests not yet started are skipped
        if failures:
            raise failures[0]

    def ask(self, messages: Messages) -> Reply:
        """Return the reply to one conversation.

        Raises:
            JudgeError: if the server refuses, or `max_attempts` attempts failed, with the last reason.
        """
        for attempt in range(1, self.max_attempts + 1):
            try:
                reply = self._once(messages)
                if reply.text.strip() or attempt == self.max_attempts:
                    return reply  # repeatedly empty: kept as a judgment without a rating
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
        except (httpx2.LocalProtocolError, UnicodeEncodeError):  # `from None`: its text may contain the key
            raise JudgeError(f"{self.reported()}: the key has characters that are not allowed in a header") from None
        except httpx2.RequestError as error:
            raise _AgainError(f"a broken connection: {type(error).__name__}") from error

    def _client(self) -> httpx2.Client:
        """Return a client for one request: a new connection is cheap beside a judgment's seconds or minutes."""
        import httpx2

        # Requests to this machine bypass the environment's proxy (trust_env).
        return httpx2.Client(verify=_certificates(), trust_env=not is_loopback(self.base_url), timeout=self.timeout_s)

    def _status(self, response: httpx2.Response) -> Exception:
        """Return the exception for a status other than 2xx."""
        said = f"HTTP {response.status_code}{_message(response, time.monotonic() + self.timeout_s)}"
        if response.status_code in AGAIN or response.status_code >= 500:
            return _AgainError(said, retry_after(response.headers.get("Retry-After")))
        return JudgeError(f"{self.reported()} refuses: {said}")


@cache
def _certificates() -> ssl.SSLContext:
    """Return the system's certificates, not certifi's: they may include a company's own. Takes 0.1 s."""
    return ssl.create_default_context()


def _read(response: httpx2.Response, deadline: float) -> bytes:
    """Return a body. The deadline is for the whole body; httpx2's time-outs apply to each read only."""
    parts = []
    for part in response.iter_bytes():
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _message(response: httpx2.Response, deadline: float) -> str:
    """Return the server's error message, in one short line."""
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
    """Return the seconds of a Retry-After header (a number or a date), None if missing or invalid."""
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
    """Parse a chat completion.

    Raises:
        _AgainError: if it is not one.
    """
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise _AgainError(f"a reply that is not a chat completion: {body[:80]!r}") from error
    if not isinstance(text, str | None):
        raise _AgainError(f"a reply without text: {str(text)[:80]}")
    return Reply(text or "", data.get("model"), data.get("system_fingerprint"), choice.get("finish_reason"))
