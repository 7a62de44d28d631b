"""The command line. `layerfit COMMAND ...` calls that command's module; otherwise the arguments are Hydra overrides.

All runs of a sweep are composed before the first one starts, and a mistake is reported in one line.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from layerfit import __version__
from layerfit.errors import UserError, did_you_mean
from layerfit.files.secrets import hidden_output, hide
from layerfit.files.shown import one_line, shown
from layerfit.installation import conf_folder, source
from layerfit.run.interrupt import Interrupted, say_interrupted

if TYPE_CHECKING:
    from layerfit.config.schema import RunConfig

HYDRA_FLAGS = ("--hydra-help", "--cfg", "-c", "--info", "-i", "--resolve", "--shell-completion", "-sc")
USAGE = "usage: layerfit [-m] model=... method=... dataset=... eval=... [key=value ...]; --help lists the choices"


@dataclass(frozen=True)
class Command:
    """A subcommand. module: has `main(argv) -> int`. words: arguments put before the user's."""

    module: str
    shown: str
    words: tuple[str, ...] = ()


COMMANDS = {
    "table": Command("layerfit.report.__main__", "T", ("table",)),
    "todo": Command("layerfit.report.__main__", "T", ("todo",)),
    "cells": Command("layerfit.report.__main__", "T", ("cells",)),
    "render": Command("layerfit.report.__main__", "T", ("render",)),
    "tune": Command("layerfit.report.__main__", "T", ("tune",)),
    "rerun": Command("layerfit.report.__main__", "[T]", ("rerun",)),
    "runs": Command("layerfit.report.runs", "[key=value]"),
    "report": Command("layerfit.page.__main__", ""),
    "claims": Command("layerfit.claims.__main__", ""),
    "estimate": Command("layerfit.estimate.__main__", "T"),
    "prefetch": Command("layerfit.prefetch.__main__", "T|model=..."),
    "judge": Command("layerfit.evaluation.judge.__main__", "rescore FILE"),
}
GROUPS = ("model", "method", "dataset", "eval", "engine")
SMALL_GROUPS = ("experiment", "optim", "tracker", "hydra/launcher")
OPTIONS = "--cfg job (all keys of a run)  --conf DIR (join DIR/dataset/mine.yaml, DIR/table/mine.yaml, ...)  --version"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 ok, 1 a run failed or was refused, 2 a mistake in the request."""
    given = sys.argv[1:] if argv is None else argv
    with hidden_output():
        try:
            check_words(given)
            check_printable(given)
            own, words = split_folders(given)
            with _joined(own):
                return chosen(words)()
        except UserError as error:
            print(f"layerfit: {shown(error)}", file=sys.stderr)
            return 2
        except (KeyboardInterrupt, Interrupted) as error:
            return say_interrupted(error)


def check_words(words: list[str]) -> None:
    """Raise UserError if a word holds a key or a password: a command line is recorded, and everybody here sees it."""
    for word in words:
        if (shown := hide(word)) != word:
            raise UserError(
                f"{shown} holds a key or a password; keys are read from environment variables, named where they are "
                "needed (eval.judge.key_variable=NAME), and addresses have no password or token"
            )


def chosen(words: list[str]) -> Callable[[], int]:
    """Return the function that does what the words ask for; it returns the exit status.

    Raises:
        UserError: if the first word is not a command.
    """
    first = words[0] if words else "--help"
    if first in COMMANDS:
        command = COMMANDS[first]
        return partial(import_module(command.module).main, [*command.words, *words[1:]])
    if first == "run":
        words = words[1:]
    elif re.fullmatch(r"\w+", first):
        names = ("run", *COMMANDS)
        raise UserError(f"unknown command {first}{did_you_mean(first, names)}; use one of: {', '.join(names)}")
    if "--version" in words:
        return partial(_show, version())
    if first == "--help" or any(word in ("-h", "--help") for word in words):
        return partial(_show, help_text(min(120, shutil.get_terminal_size((120, 24)).columns)))
    return partial(_hydra if any(word in HYDRA_FLAGS for word in words) else _run, words)


def _show(text: str) -> int:
    print(text)
    return 0


def split_folders(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the folders that a command line adds (--conf DIR, hydra.searchpath=[file://DIR]), and its other words.

    Raises:
        UserError: if --conf has no folder, or hydra.searchpath names something other than a local folder.
    """
    own: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        key, _, value = word.partition("=")
        if key == "--conf":
            folder = value or next(left, "")
            if not folder:
                raise UserError("--conf needs a folder: --conf DIR")
            own.append(folder)
        elif key == "hydra.searchpath":
            listed = [one.strip(" '\"") for one in value.strip("[] '\"").split(",")]
            if bad := [one for one in listed if "://" in one and not one.startswith("file://")]:
                raise UserError(f"hydra.searchpath has {bad[0]}; give folders: hydra.searchpath=[file:///my/conf]")
            own += [one.removeprefix("file://") for one in listed if one]
        else:
            rest.append(word)
    return own, rest


def _joined(own: list[str]) -> AbstractContextManager[None]:
    if not own:  # importing the configuration takes half a second; --help does without it
        return nullcontext()
    from layerfit import config

    return config.joined(own)


def version() -> str:
    """Return the version and, if known, the commit."""
    code = source()
    state = "" if code.dirty is False else ", changed since" if code.dirty else ", not known whether changed since"
    return f"layerfit {__version__} ({f'commit {code.commit[:10]}{state}' if code.commit else code.reason})"


def help_text(width: int) -> str:
    """Return about ten lines: how a run and a command are written, and the choices of every group."""
    small = "  ".join(f"{group}={'|'.join(choices(group))}" for group in SMALL_GROUPS)
    return "\n".join(
        [
            "usage: layerfit [run] [-m] [GROUP=CHOICE ...] [key=value ...]   one run; -m: one for each of a,b,c",
            "       layerfit COMMAND ...                                     COMMAND --help describes it",
            *(_wrapped(f"{group:<9}", " ".join(choices(group)), width) for group in GROUPS),
            _wrapped("also     ", small, width),
            _wrapped("commands ", " ".join(f"{name} {one.shown}".strip() for name, one in COMMANDS.items()), width),
            _wrapped("options  ", OPTIONS, width),
        ]
    )


def _wrapped(name: str, text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent=name, subsequent_indent=" " * len(name), break_on_hyphens=False)


def choices(group: str) -> list[str]:
    """Return the choices of a group; three or more that extend another's name by `_...` are shown as one: `nano_*`."""
    names = sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
    families = {name: [other for other in names if other.startswith(f"{name}_")] for name in names}
    large = {name: set(members) for name, members in families.items() if len(members) >= 3}
    hidden = set().union(*large.values()) if large else set()
    shown = [[name, f"{name}_*"] if name in large else [name] for name in names if name not in hidden]
    return [word for words in shown for word in words]


def check_printable(words: Iterable[str]) -> None:
    """Raise UserError if an argument holds bytes that are no text: they can be no name, no path and no value."""
    for word in words:
        if any(0xD800 <= ord(c) < 0xE000 for c in word):
            raise UserError(
                f"argument {word[:80]!a} is not valid Unicode (bytes that are no UTF-8?); write it in UTF-8"
            )
        if any(ord(c) < 32 or ord(c) == 127 for c in word):
            raise UserError(f"argument {word[:80]!a} has control characters (a line break, a tab, NUL); leave them out")


def _hydra(argv: list[str]) -> int:
    """Let Hydra handle its own flags: help, the composed configuration, shell completion.

    Raises:
        UserError: for what Hydra would refuse, and for a request that no run could be made of.
    """
    import hydra
    from hydra._internal.utils import get_args_parser

    from layerfit import config

    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            asked = get_args_parser().parse_args(argv)
        if asked.run or asked.config_path or asked.config_name or asked.config_dir or asked.experimental_rerun:
            raise UserError(f"{' '.join(argv)}: only {' '.join(HYDRA_FLAGS)} of Hydra's options are taken; {USAGE}")
        if asked.cfg:
            _check_requested(asked.overrides, multirun=asked.multirun)
        sys.argv = ["layerfit", *argv]
        with config.user_errors(asked.overrides), redirect_stderr(said if asked.package else sys.stderr):
            hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(lambda _: None)()
    except SystemExit as ended:
        if ended.code:
            line = (said.getvalue().splitlines() or ["Hydra refuses it"])[-1]
            raise UserError(f"{' '.join(argv)}: {line.partition('error: ')[2] or line}") from ended
    return 0


def _check_requested(overrides: list[str], *, multirun: bool) -> None:
    """Raise UserError unless runs can be composed of the words."""
    from layerfit import config

    launcher_words, words = config.split_launcher(overrides)
    with config.composer():
        config.compose_launcher(launcher_words)
        for cell in config.expand(words, multirun=multirun):
            config.compose(cell)


def _run(argv: list[str]) -> int:
    from layerfit import config
    from layerfit.distributed.place import find_place, writes

    multirun = any(arg in ("-m", "--multirun") for arg in argv)
    # DeepSpeed's launcher adds --local_rank; the rank is read from the environment (LOCAL_RANK) instead.
    overrides = [a for a in argv if a not in ("-m", "--multirun") and not a.startswith("--local_rank=")]
    if flags := [arg for arg in overrides if arg.startswith("-")]:
        raise UserError(f"unknown option {flags[0]}; {USAGE}")
    place = find_place()
    launcher_words, overrides = config.split_launcher(overrides)
    with config.composer():
        launcher = config.compose_launcher(launcher_words)
        runs = [config.compose(cell) for cell in config.expand(overrides, multirun=multirun)]
    from layerfit.launch import make_launcher

    named = {config.run_id(run): run for run in runs}  # before they start: files may be changed meanwhile
    ok = make_launcher(launcher, group="sweep" if multirun else "run")(runs)
    if ok is None:  # jobs were submitted with wait=false: no result yet
        return 0
    if writes(place):
        for run_id, run in named.items():
            print(summary(run, run_id))
    return 0 if ok else 1


def summary(run: RunConfig, run_id: str) -> str:
    """Return one line about a run's record."""
    from layerfit.files.os_errors import os_error_line
    from layerfit.records import record

    try:
        found = record.read(run.paths.results, run_id)
    except (OSError, UserError) as error:
        said = os_error_line(error) if isinstance(error, OSError) else error
        return f"{run_id}  {run.method_name():<12} unreadable: {said}"
    if found is None:
        return f"{run_id}  {run.method_name():<12} no record"
    result = found.result
    scores = "  ".join(f"{s.key} {s.value:.4f}" for s in result.scores)
    loss = f"loss {result.losses[-1]:.4f}  " if result.losses else ""
    tail = scores if result.status == "ok" else one_line(result.message or "")
    return f"{run_id}  {run.method_name():<12} s{run.seed}  {result.status}  {loss}{tail}"
