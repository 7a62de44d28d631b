"""Requests to stop (Ctrl-C, a scheduler's SIGTERM or SIGUSR1): obeyed at points where no work is lost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """Stopped by a signal, whose name it carries. Not an Exception: no library's `except Exception` may swallow it."""

    @property
    def exit_status(self) -> int:
        """The shell's: 128 and the signal's number."""
        return 128 + signal.Signals[str(self)]


@dataclass
class _State:
    """The request that this process has received; one a process, as signal handlers are."""

    asked: str | None = None
    at_once: bool = False


_state = _State()


def _heed(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    _state.asked = signal.Signals(number).name
    if _state.at_once:
        _state.at_once = False  # once: what cleans up after it is left alone
        raise Interrupted(_state.asked)


def asked() -> str | None:
    """Return the name of the signal that asked this process to stop, None if none has."""
    return _state.asked


@contextmanager
def listening() -> Iterator[None]:
    """Record signals instead of ending the process; code that checks `asked()` stops at its next safe point."""
    before = {number: signal.signal(number, _heed) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.asked = None


@contextmanager
def at_once() -> Iterator[None]:
    """Stop at once inside this block: its work leaves nothing that must be saved.

    Raises:
        Interrupted: when a listened-to signal comes, or has come before.
    """
    if _state.asked is not None:
        raise Interrupted(_state.asked)
    _state.at_once = True
    try:
        yield
    finally:
        _state.at_once = False


def say_interrupted(error: BaseException) -> int:
    """Print that a sweep was interrupted; return the shell's exit status for it."""
    print("layerfit: interrupted; the same command goes on where this one stopped", file=sys.stderr)
    return error.exit_status if isinstance(error, Interrupted) else 128 + signal.SIGINT
