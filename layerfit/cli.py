"""The command line: Hydra's grammar, every cell composed before the first starts, mistakes in one line."""

from __future__ import annotations

import os
import sys

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.distributed.place import find_place, writes
from layerfit.errors import UserError
from layerfit.records import record
from layerfit.run.interrupt import Interrupted, say_interrupted

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


def _run(argv: list[str]) -> int:
    multirun = any(arg in ("-m", "--multirun") for arg in argv)
    # DeepSpeed's launcher adds --local_rank, which the environment says as well.
    overrides = [a for a in argv if a not in ("-m", "--multirun") and not a.startswith("--local_rank=")]
    if flags := [arg for arg in overrides if arg.startswith("-")]:
        raise UserError(f"unknown option {flags[0]}; {USAGE}")
    launcher_words, overrides = config.split_launcher(overrides)
    with config.composer():
        launcher = config.compose_launcher(launcher_words)
        runs = [config.compose(cell) for cell in config.expand(overrides, multirun=multirun)]
    from layerfit.launch import make_launcher

    ok = make_launcher(launcher, group="sweep" if multirun else "run")(runs)
    if ok is None:  # submitted, and nobody waits
        return 0
    if writes(find_place()):
        for run in {config.run_id(run): run for run in runs}.values():
            print(summary(run))
    return 0 if ok else 1


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
