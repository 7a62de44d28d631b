"""The command line: Hydra's grammar, every cell composed before the first starts, mistakes in one line."""

from __future__ import annotations

import itertools
import os
import signal
import sys

from layerfit import config, record
from layerfit.errors import UserError
from layerfit.interrupt import Interrupted
from layerfit.place import find_place, writes
from layerfit.schema import RunConfig

HYDRA_FLAGS = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--resolve", "--shell-completion", "-sc")
USAGE = (
    "usage: python -m layerfit [-m] model=... method=... dataset=... eval=... [key=value ...]; --help lists the choices"
)


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status: 0 ok, 1 a run failed, 2 a mistake."""
    argv = sys.argv[1:] if argv is None else argv
    if any(arg in HYDRA_FLAGS for arg in argv):
        return _hydra(argv)
    try:
        return _run(argv)
    except UserError as error:
        print(f"layerfit: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted) as error:
        return say_interrupted(error)


def _hydra(argv: list[str]) -> int:
    """Let Hydra answer: help, the composed configuration, completion."""
    import hydra

    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["layerfit", *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(lambda _: None)()
    except Exception as error:
        print(f"layerfit: {config.one_line(error)}", file=sys.stderr)
        return 2
    return 0


def expand(overrides: list[str], *, multirun: bool) -> list[list[str]]:
    """Return the override lists of a sweep, the last key varying fastest; one list without a sweep.

    Raises:
        UserError: if the grammar is wrong, or values are listed without -m.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UserError(config.one_line(error)) from error
    choices: list[list[str]] = []
    for text, override in zip(overrides, parsed, strict=True):
        if not override.is_sweep_override():
            choices.append([text])
        elif multirun:
            choices.append([f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()])
        else:
            raise UserError(f"{text} lists several values; add -m to run each of them, or quote it")
    return [list(combination) for combination in itertools.product(*choices)]


def _run(argv: list[str]) -> int:
    multirun = any(arg in ("-m", "--multirun") for arg in argv)
    # DeepSpeed's launcher adds --local_rank, which the environment says as well.
    overrides = [a for a in argv if a not in ("-m", "--multirun") and not a.startswith("--local_rank=")]
    if flags := [arg for arg in overrides if arg.startswith("-")]:
        raise UserError(f"unknown option {flags[0]}; {USAGE}")
    launcher_words, overrides = config.split_launcher(overrides)
    with config.composer():
        launcher = config.compose_launcher(launcher_words)
        runs = [config.compose(cell) for cell in expand(overrides, multirun=multirun)]
    from layerfit.cluster.cells import run_cells

    ok = run_cells(runs, launcher, group="sweep" if multirun else "run")
    if ok is None:  # submitted, and nobody waits
        return 0
    if writes(find_place()):
        for run in {config.run_id(run): run for run in runs}.values():
            print(summary(run))
    return 0 if ok else 1


def say_interrupted(error: BaseException) -> int:
    """Say that a sweep was interrupted; return the shell's exit status for it."""
    print("layerfit: interrupted; the same command goes on where this one stopped", file=sys.stderr)
    return error.exit_status if isinstance(error, Interrupted) else 128 + signal.SIGINT


def summary(run: RunConfig) -> str:
    """Return one line about a run's record."""
    run_id = config.run_id(run)
    found = record.read(run.paths.results, run_id)
    if found is None:
        return f"{run_id}  {run.method_name():<12} no record"
    result = found.result
    scores = "  ".join(f"{s.key} {s.value:.4f}" for s in result.scores)
    loss = f"loss {result.losses[-1]:.4f}  " if result.losses else ""
    tail = scores if result.status == "ok" else (result.message or "")
    return f"{run_id}  {run.method_name():<12} s{run.seed}  {result.status}  {loss}{tail}"
