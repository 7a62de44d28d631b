"""Mistakes that a user can fix, and numbers that are none: exceptions whose message is one line."""

import argparse
import math
from collections.abc import Iterable
from typing import NoReturn

LARGEST = 2**31 - 1
"""Of any whole number of a request but a seed: more rows, steps or tokens than any machine gets through."""
LARGEST_SEED = 2**63 - 1
"""torch, JSON readers and data frames hold it."""
LARGEST_FLOAT = 3.4e38
"""What a 32-bit float holds."""
MOST_RANKS, MOST_SEQUENCES, WIDEST = 65_536, 2**24, 2**20
"""Bounds beyond any machine: ranks of a run, sequences of a batch, width of an adapter."""


class UserError(ValueError):
    """A mistake in the request: shown as one line, exit status 2, no traceback."""


class Diverged(ArithmeticError):
    """A number that a run rests on is not finite: training has diverged, which is a result."""


def finite(what: str, value: float) -> float:
    """Return a number that a run rests on; every loss, gradient norm and score passes here.

    The message does not hold the value: where one engine finds NaN another finds infinity.

    Raises:
        Diverged: if it is NaN or infinite.
    """
    if not math.isfinite(value):
        raise Diverged(f"the {what} is not finite")
    return value


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors, so one line too."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError, with the usage."""
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")


def did_you_mean(word: str, choices: Iterable[str], before: str = "") -> str:
    """Return ` (did you mean NAME?)` with the choice closest to a misspelt word, "" if none is close.

    before: prefix of the suggested name, such as `training.`.
    """
    from difflib import get_close_matches

    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {before}{by_lower[near[0]]}?)" if near else ""


def check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(
            f"{name}={value!r} is not known{did_you_mean(str(value), allowed)}; use one of: {', '.join(allowed)}"
        )


def check_range(
    name: str,
    value: float,
    low: float,
    high: float = float("inf"),
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raise UserError unless `low <= value <= high` (bounds excluded where open), and a finite number."""
    finite = isinstance(value, int) or math.isfinite(value)
    inside = (value > low if low_open else value >= low) and (value < high if high_open else value <= high)
    if not (finite and inside):
        left, right = "(" if low_open else "[", ")" if high_open or high == float("inf") else "]"
        top = f"{high:,}" if isinstance(high, int) and high >= 10_000 else f"{high:g}"
        raise UserError(f"{name}={value!r} is outside {left}{low:g}, {top}{right}")
