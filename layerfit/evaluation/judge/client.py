"""A client of a judge at an OpenAI-compatible address, with retries.

Retried: time-outs, broken connections, 408, 409, 425, 429, 5xx, replies that are no chat completion with text. Not
retried: every other status (a wrong key or model stays wrong) and redirects (they would pass the key to another host).
A judgment whose last attempt fails ends the run: a null would make a wrong address a final result. The same command
asks for the rest. A parameter that a server does not take (`max_tokens`, `temperature`) is left out or renamed.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import random
import re
import socket
import ssl
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from threading import Event, Lock, Timer
from time import sleep
from typing import TYPE_CHECKING, Any

from layerfit.evaluation.judge.reply import AgainError, Reply, parse_refusal, parse_reply, quote_server, read_body

if TYPE_CHECKING:
    import httpx2

AGAIN = (408, 409, 425, 429)
LONGEST_WAIT = 600.0
"""Seconds; if a server asks for a longer pause, the run fails, and the same command continues it."""

Messages = list[dict[str, str]]


class JudgeError(RuntimeError):
    """The judge does not answer. Earlier judgments are kept."""


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
    key: str | None = field(repr=False)
    max_tokens: int
    timeout_s: float
    max_attempts: int
    parallel: int = 1
    base_wait_s: float = 1.0
    refused: set[str] = field(default_factory=set)
    """Parameters that this server does not take, learnt from its first refusal."""
    lock: Lock = field(default_factory=Lock, repr=False)

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
                if reply.text.strip() or reply.finish == "length" or attempt == self.max_attempts:
                    return reply  # cut before its first word, or repeatedly empty: a judgment without a rating
                raise AgainError("an empty reply")
            except AgainError as error:
                if attempt == self.max_attempts:
                    raise JudgeError(f"{self.reported()}: {attempt} attempts failed, the last with {error}") from error
                if error.wait is not None and error.wait > LONGEST_WAIT:
                    raise JudgeError(f"{self.reported()} asks for a pause of {error.wait:.0f} s: {error}") from error
                backoff = min(60.0, self.base_wait_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
                sleep(max(backoff, error.wait or 0.0))
        raise AssertionError("the last attempt returns or raises")

    def parameters(self) -> dict[str, Any]:
        """Return the request's parameters, without those that the server has refused."""
        out: dict[str, Any] = {"temperature": 0, "max_tokens": self.max_tokens, "n": 1}
        if "max_tokens" in self.refused:
            out["max_completion_tokens"] = self.max_tokens
        return {name: value for name, value in out.items() if name not in self.refused}

    def _once(self, messages: Messages) -> Reply:
        while True:
            parameters = self.parameters()
            answer = self._request(messages, parameters)
            if isinstance(answer, Reply):
                return answer
            self._learn(answer)

    def _learn(self, parameter: str) -> None:
        with self.lock:
            if parameter not in self.refused:
                instead = "max_completion_tokens in its place" if parameter == "max_tokens" else "its own value"
                print(f"{self.reported()} does not take {parameter}: asked with {instead}", file=sys.stderr, flush=True)
                self.refused.add(parameter)

    def _request(self, messages: Messages, parameters: dict[str, Any]) -> Reply | str:
        """Return the reply, or the parameter that the server does not take."""
        import httpx2

        headers = {"User-Agent": "layerfit", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self.key is not None:
            if not re.fullmatch(r"[\x21-\x7e]+", self.key):
                raise JudgeError(f"{self.reported()}: the key has characters that are not allowed in a header")
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.base_url.rstrip("/") + "/chat/completions"
        body = json.dumps({"model": self.model, "messages": messages, **parameters}).encode()
        with _Watch.over(self.timeout_s) as watch:
            try:
                sent: Any = {"content": body, "headers": headers, "extensions": {"trace": watch.connected}}
                with self._client() as client, client.stream("POST", url, **sent) as response:
                    if not response.is_success:
                        return self._refused(response, parameters)
                    received = read_body(response)
                    if watch.late:  # where a body ends with its connection, this one was only cut
                        raise TimeoutError
                    return parse_reply(received, parameters)
            except httpx2.TimeoutException as error:
                raise AgainError(f"a time-out after {self.timeout_s:g} s") from error
            except (httpx2.RequestError, httpx2.InvalidURL, OSError) as error:
                if watch.late:
                    raise AgainError(f"a time-out after {self.timeout_s:g} s") from error
                if isinstance(error, httpx2.ConnectError | httpx2.ProxyError):
                    raise AgainError(f"no connection: {quote_server(str(error))}") from error
                raise AgainError(f"a broken connection: {type(error).__name__}") from error

    def _client(self) -> httpx2.Client:
        """Return a client for one request: a new connection is cheap beside a judgment's seconds or minutes."""
        import httpx2

        # Requests to this machine bypass the environment's proxy (trust_env).
        return httpx2.Client(verify=_certificates(), trust_env=not is_loopback(self.base_url), timeout=self.timeout_s)

    def _refused(self, response: httpx2.Response, parameters: dict[str, Any]) -> str:
        """Return the parameter that the server does not take; raise for every other status than 2xx."""
        import httpx2

        body = b""
        with suppress(AgainError, httpx2.RequestError):  # an error without words
            body = read_body(response)
        refusal, status = parse_refusal(body, parameters), response.status_code
        if refusal.parameter is not None and status in (400, 422):
            return refusal.parameter
        said = f"HTTP {status}" + (f" ({refusal.said})" if refusal.said else "")
        if status in AGAIN or status >= 500:
            raise AgainError(said, retry_after(response.headers.get("Retry-After")))
        raise JudgeError(f"{self.reported()} refuses: {said}")


class _Watch:
    """The time limit of one whole request. The library's are for single reads: a server may send byte after byte."""

    def __init__(self) -> None:
        self.late = False
        self.socket: socket.socket | None = None

    @classmethod
    @contextmanager
    def over(cls, seconds: float) -> Iterator[_Watch]:
        """Watch over a block: after `seconds` its connection ends, which the block sees as an error."""
        watch = cls()
        timer = Timer(seconds, watch.end)
        timer.daemon = True
        timer.start()
        try:
            yield watch
        finally:
            timer.cancel()

    def connected(self, event: str, info: dict[str, Any]) -> None:
        """Take note of the connection (a trace function of httpx2)."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self.socket = info["return_value"].get_extra_info("socket")

    def end(self) -> None:
        """End the connection. It is not closed here: another thread's could get its number while this one is read."""
        self.late = True
        if self.socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


@cache
def _certificates() -> ssl.SSLContext:
    """Return the system's certificates, not certifi's: they may include a company's own. Takes 0.1 s."""
    return ssl.create_default_context()


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
    except (ValueError, TypeError, OverflowError, OSError):
        return None
