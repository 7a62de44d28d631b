"""The command line. `layerfit COMMAND ...` calls that command's module; otherwise the arguments are Hydra overrides.

All runs of a sweep are composed before the first one starts, and a mistake is reported in one line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from layerfit import __version__
from layerfit.errors import UserError, did_you_mean
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
    text: str
    words: tuple[str, ...] = ()


COMMANDS = {
    "table": Command(
        "layerfit.report.__main__", "T", "run the missing cells of a table, print and write it", ("table",)
    ),
    "todo": Command("layerfit.report.__main__", "T", "list the runs that a table still needs", ("todo",)),
    "cells": Command("layerfit.report.__main__", "T", "list all runs of a table, and their status", ("cells",)),
    "render": Command("layerfit.report.__main__", "T", "write a table from its records, running nothing", ("render",)),
    "tune": Command("layerfit.report.__main__", "T", "run the tuning trials of a table, keep the best", ("tune",)),
    "rerun": Command("layerfit.report.__main__", "[T]", "run tables from scratch elsewhere and compare", ("rerun",)),
    "runs": Command("layerfit.report.runs", "[key=value]", "list the records"),
    "report": Command("layerfit.page.__main__", "", "write every table, figure and run as one HTML file"),
    "claims": Command("layerfit.claims.__main__", "", "test the claims of the slides on the records"),
    "estimate": Command("layerfit.estimate.__main__", "T", "memory, FLOPs and hours of a table before it runs"),
    "prefetch": Command("layerfit.prefetch.__main__", "T|model=...", "fetch models and data into a folder"),
    "judge": Command("layerfit.evaluation.judge.__main__", "rescore FILE", "recompute scores from raw judgments"),
}
GROUPS = ("model", "method", "dataset", "eval", "engine", "optim", "tracker", "experiment", "hydra/launcher")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 ok, 1 a run failed or was refused, 2 a mistake in the request."""
    try:
        own, words = split_folders(sys.argv[1:] if argv is None else argv)
        with _joined(own):
            return _dispatch(words)
    except UserError as error:
        print(f"layerfit: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted) as error:
        return say_interrupted(error)


def _dispatch(words: list[str]) -> int:
    first = words[0] if words else "--help"
    if first in COMMANDS:
        command = COMMANDS[first]
        return import_module(command.module).main([*command.words, *words[1:]])
    if first == "run":
        words = words[1:]
    elif re.fullmatch(r"\w+", first):
        names = ("run", *COMMANDS)
        raise UserError(f"unknown command {first}{did_you_mean(first, names)}; use one of: {', '.join(names)}")
    if "--version" in words:
        print(version())
        return 0
    if first == "--help" or any(word in ("-h", "--help") for word in words):
        print(help_text(min(120, shutil.get_terminal_size((120, 24)).columns)))
        return 0
    return _hydra(words) if any(word in HYDRA_FLAGS for word in words) else _run(words)


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
    """Return the usage of runs, the choices of every group, and the commands."""
    out = [
        "usage: layerfit [run] [-m] [GROUP=CHOICE ...] [key=value ...]   one run; -m: one for each listed value",
        "       layerfit COMMAND ...                                     options: layerfit COMMAND --help",
        "",
    ]
    out += [_wrapped(f"{group:<16}", " ".join(choices(group)), width) for group in GROUPS]
    out.append("")
    out += [f"{f'{name} {one.shown}':<24}{one.text}" for name, one in COMMANDS.items()]
    out += [
        "",
        "Keys and values of a run: --cfg job (with --resolve). --conf DIR: also read DIR/dataset/mine.yaml,",
        "DIR/table/mine.yaml, ... --version. --hydra-help: options of Hydra, which composes runs (https://hydra.cc).",
    ]
    return "\n".join(out)


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


def _hydra(argv: list[str]) -> int:
    """Let Hydra handle its own flags: help, the composed configuration, shell completion."""
    import hydra

    from layerfit import config

    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["layerfit", *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(lambda _: None)()
    except Exception as error:
        print(f"layerfit: {config.one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _run(argv: list[str]) -> int:
    from layerfit import config
    from layerfit.distributed.place import find_place, writes

    multirun = any(arg in ("-m", "--multirun") for arg in argv)
    # DeepSpeed's launcher adds --local_rank; the rank is read from the environment (LOCAL_RANK) instead.
    overrides = [a for a in argv if a not in ("-m", "--multirun") and not a.startswith("--local_rank=")]
    if flags := [arg for arg in overrides if arg.startswith("-")]:
        raise UserError(f"unknown option {flags[0]}; {USAGE}")
    launcher_words, overrides = config.split_launcher(overrides)
    with config.composer():
        launcher = config.compose_launcher(launcher_words)
        runs = [config.compose(cell) for cell in config.expand(overrides, multirun=multirun)]
    from layerfit.launch import make_launcher

    ok = make_launcher(launcher, group="sweep" if multirun else "run")(runs)
    if ok is None:  # jobs were submitted with wait=false: no result yet
        return 0
    if writes(find_place()):
        for run in {config.run_id(run): run for run in runs}.values():
            print(summary(run))
    return 0 if ok else 1


def summary(run: RunConfig) -> str:
    """Return one line about a run's record."""
    from layerfit import config
    from layerfit.records import record

    run_id = config.run_id(run)
    found = record.read(run.paths.results, run_id)
    if found is None:
        return f"{run_id}  {run.method_name():<12} no record"
    result = found.result
    scores = "  ".join(f"{s.key} {s.value:.4f}" for s in result.scores)
    loss = f"loss {result.losses[-1]:.4f}  " if result.losses else ""
    tail = scores if result.status == "ok" else (result.message or "")
    return f"{run_id}  {run.method_name():<12} s{run.seed}  {result.status}  {loss}{tail}"
