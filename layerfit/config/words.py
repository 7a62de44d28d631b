"""The words of a request, `key=value`: parsed and checked one by one; a sweep is counted before its runs are made."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from layerfit.config.folders import conf_folders
from layerfit.config.launcher import LAUNCHERS
from layerfit.config.messages import user_errors
from layerfit.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

LAUNCHER, LAUNCHER_KEY = "hydra/launcher", "hydra.launcher."
_CHOICE = re.compile(r"(?!.*\.\.)\w[\w.\-]*")
MOST_CELLS = 10_000
"""Runs of one sweep."""
GROUPS = ("model", "method", "dataset", "eval", "engine", "optim", "tracker", "experiment")
"""Of a run; the other folders of conf/ are no part of one."""


def choices(group: str) -> list[str]:
    """Return the names of a group's choices."""
    return sorted(path.stem for folder in conf_folders() for path in (folder / group).glob("*.yaml"))


def parse(words: Sequence[str]) -> list[Override]:
    """Parse and check the overrides of a run.

    Raises:
        UserError: naming the first that cannot be read, or asks for what no run has.
    """
    out = read(words)
    for word, override in zip(words, out, strict=True):
        _check(override, word)
    return out


def read(words: Iterable[str]) -> list[Override]:
    """Parse overrides.

    Raises:
        UserError: naming the first that is not in Hydra's grammar, with the quotes that it needs.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, out = OverridesParser.create(), []
    for word in words:
        try:
            with user_errors([word]):
                override = parser.parse_override(word)
        except (HydraException, UserError) as error:
            raise UserError(_unread(word)) from error
        out.append(override)
    return out


def _unread(word: str) -> str:
    """Return what to do about a word that Hydra's grammar does not have."""
    from hydra.core.override_parser.types import Quote, QuotedString

    key, equals, value = word.partition("=")
    if not equals:
        example = f"{word}={_some(word)}" if word in GROUPS else f"{word}=..."
        return f"{word!r} has no value; write KEY=VALUE, {example}"
    if not key.strip("+~ "):
        return f"{word!r} has no key; write KEY=VALUE, such as training.max_steps=100"
    quoted = f"{key}={QuotedString(value, Quote.double).with_quotes()}"
    if value and _reads(quoted):
        return f"{key}={value} cannot be read: with = # , brackets or braces it needs quotes: {shlex.quote(quoted)}"
    return f"{word!r} cannot be read; write KEY=VALUE, with a key such as training.max_steps"


def _reads(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        with user_errors([word]):
            OverridesParser.create().parse_override(word)
    except UserError:
        return False
    return True


def _check(override: Override, word: str) -> None:
    """Raise UserError if a word is one that no run can have, whatever the others are."""
    key = override.key_or_group
    if not key.strip():
        raise UserError(f"{word!r} has no key; write KEY=VALUE, such as training.max_steps=100")
    if key == "hydra" or override.is_hydra_override():
        raise UserError(
            f"{word}: nothing here reads {key}; of Hydra's own keys there are {LAUNCHER}={'|'.join(LAUNCHERS)}, "
            f"{LAUNCHER_KEY}KEY=VALUE and hydra.searchpath=[file:///my/conf]; a run's folders are paths.outputs and "
            "paths.results"
        )
    if key not in GROUPS:
        return
    if override.is_delete():
        raise UserError(f"{word}: every run has one {key}; choose another, {key}={_some(key)}")
    value = override.value()
    if override.is_sweep_override() or (isinstance(value, str) and _CHOICE.fullmatch(value)):
        return
    if key == "experiment" and value is None:
        return
    raise UserError(f"{word}: {key} takes one name; write {key}={_some(key)}")


def _some(group: str) -> str:
    names = choices(group)
    return "|".join(names[:6]) + ("|..." if len(names) > 6 else "")


def check_switch(override: Override, current: object) -> None:
    """Raise UserError if a number is given where true or false belongs: OmegaConf takes every number for true.

    current: the value of its key.
    """
    value = override.value()
    if isinstance(current, bool) and isinstance(value, int | float) and value not in (0, 1):
        raise UserError(f"{override.input_line}: {override.key_or_group} is a switch; set it to true or false")


def expand(overrides: list[str], *, multirun: bool) -> list[list[str]]:
    """Return the override lists of a sweep, the last key varying fastest; one list without a sweep.

    Raises:
        UserError: if an override cannot be read, values are listed without -m, or there are none or too many.
    """
    choices: list[list[str]] = []
    counts: dict[str, int] = {}
    for text, override in zip(overrides, parse(overrides), strict=True):
        if not override.is_sweep_override():
            choices.append([text])
            continue
        if not multirun:
            raise UserError(f"{text} lists several values; add -m to run each of them, or quote it")
        counts[text] = _count(override, text)
        if math.prod(counts.values()) > MOST_CELLS:
            shown = " x ".join(f"{count:,}" for count in counts.values())
            total = f" = {math.prod(counts.values()):,}" if len(counts) > 1 else ""
            raise UserError(
                f"{' '.join(counts)} asks for {shown}{total} runs; one sweep has at most "
                f"{MOST_CELLS:,}: name fewer values, or take several sweeps"
            )
        with user_errors([text]):
            values = list(itertools.islice(override.sweep_string_iterator(), counts[text]))
        choices.append([f"{override.get_key_element()}={v}" for v in values])
    return [list(combination) for combination in itertools.product(*choices)]


def _count(override: Override, text: str) -> int:
    """Return how many values a sweep has, without making them.

    Raises:
        UserError: if there are none, or they cannot be listed.
    """
    from hydra.core.override_parser.types import ChoiceSweep, Glob, RangeSweep

    key, value = override.key_or_group, override._value
    if isinstance(value, Glob):
        names = value.filter(choices(key)) if key in GROUPS else []
        raise UserError(
            f"{text}: names are not searched for; list them" + (f": {key}={','.join(names)}" if names else "")
        )
    if not isinstance(value, ChoiceSweep | RangeSweep):
        raise UserError(
            f"{text}: an interval has no values to run one by one; list them, {key}=A,B,C, or range(A,B,STEP)"
        )
    if value.shuffle:
        raise UserError(
            f"{text}: the order of a sweep decides nothing, and every rank would draw another; drop shuffle"
        )
    count = len(value.list) if isinstance(value, ChoiceSweep) else _length(value.start, value.stop, value.step, text)
    if count < 1:
        raise UserError(f"{text} lists no values; range(A,B,STEP) goes from A up to, but not including, B")
    return count


def _length(start: float | None, stop: float | None, step: float, text: str) -> int:
    if start is None or stop is None or not all(map(math.isfinite, (start, stop, step))) or step == 0:
        raise UserError(f"{text} has no end; write range(A,B,STEP) with numbers and a step that is not 0")
    return max(0, math.ceil((Fraction(stop) - Fraction(start)) / Fraction(step)))


def split_launcher(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of the launcher, and those of the run."""
    launcher = [o for o in overrides if o.lstrip("+~").startswith((LAUNCHER, LAUNCHER_KEY))]
    return launcher, [o for o in overrides if o not in launcher]
