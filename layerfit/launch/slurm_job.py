"""The function of a job: one rank of one run. srun (or submitit's local executor) starts it once for every rank."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from layerfit.config.launcher import SLURM
from layerfit.errors import UserError
from layerfit.files.secrets import hidden_output
from layerfit.files.writing import clear_temporaries
from layerfit.launch.preflight import check_device
from layerfit.launch.processes import alone, no_input, set_environment
from layerfit.launch.queue import Queued, read_queued
from layerfit.models.hub import prepare_environment
from layerfit.records import record
from layerfit.records.record import EXIT_STATUS
from layerfit.run import interrupt

_FIRST_PORT, _NUM_PORTS = 15000, 15000
"""Ports for ranks on this machine, below those that the kernel gives to clients."""


class RunFailed(Exception):
    """A run ended badly: submitit and SLURM are to call its job FAILED. Its record says why."""


@dataclass(frozen=True)
class Task:
    """One rank of a run, as submitit pickles it. It has no `checkpoint`: a job goes back to the queue as it was.

    path: the run.json, absolute. command: of the person who submitted, for the record's manifest.
    """

    path: str
    command: list[str]
    launcher: str
    requeue: bool

    def __call__(self) -> str:
        """Execute the run on this rank; return how it ended.

        Raises:
            RunFailed: if it failed.
            SystemExit: after the job was sent back to the queue: no result is to be written for it.
        """
        sys.argv = list(self.command)
        no_input()
        rank = take_place()
        folder = Path(self.path).parent
        with hidden_output(), interrupt.listening(), output_to(folder / (f"log.{rank}.txt" if rank else "log.txt")):
            code = self._code(rank)
        if code == EXIT_STATUS["interrupted"]:
            if rank == 0 and self.requeue and requeue(self.launcher):
                raise SystemExit(requeue_status(self.launcher))
            return "interrupted"
        if code not in (EXIT_STATUS[status] for status in record.FINAL):
            raise RunFailed(f"the run ended with exit status {code}; see {folder}/log.txt")
        return "ok"

    def _code(self, rank: int) -> int:
        """Return the worker's exit status."""
        set_environment()
        path = Path(self.path)
        queued = read_queued(path)
        try:
            prepare_environment(queued.run.hub)
            with alone(path.parent) if rank == 0 else nullcontext():
                if queued.is_done():  # by another process that held the folder before
                    return 0
                if why := refusal(queued):
                    print(f"layerfit: {why}", file=sys.stderr)
                if rank == 0:
                    clear_temporaries(path.parent, locked=True)
                    queued.forget_failure()
                    if why:
                        queued.record_failure(why)
                return 1 if why else work(path)
        except interrupt.Interrupted as told:
            print(f"layerfit: stopped by {told}", file=sys.stderr)
            return EXIT_STATUS["interrupted"]


def refusal(queued: Queued) -> str | None:
    """Return why a run cannot be executed here and now, None if it can: the same on every rank."""
    for needed in queued.needs:
        before = record.read(queued.run.paths.results, needed)
        if before is None or before.result.status != "ok":
            return f"its required run {needed} is not ok"
    try:
        check_device(queued.run.engine)
    except UserError as error:
        return str(error)
    return None


def work(path: Path) -> int:
    """Execute the run with the worker, which is heavy to import."""
    import torch

    from layerfit.run import worker

    torch.set_num_threads(1)
    code = worker.work(path)
    sys.stdout.flush()
    return code


def take_place() -> int:
    """Return this process's rank. Ranks of submitit's local executor get the variables of torch's launcher.

    srun's ranks find the others by themselves (the worker reads srun's environment).
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "local":
        return int(os.environ.get("SLURM_PROCID", "0"))
    rank, world = os.environ["SUBMITIT_LOCAL_GLOBALID"], os.environ["SUBMITIT_LOCAL_NTASKS"]
    if int(world) > 1:
        port = _FIRST_PORT + int(os.environ["SUBMITIT_LOCAL_JOB_ID"]) % _NUM_PORTS
        os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return int(rank)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append what this process and its libraries print to a file; submitit's own output goes elsewhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    except Exception:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)


def requeue(launcher: str) -> bool:
    """Send this job back to the queue; return whether that worked."""
    if launcher != SLURM:
        return True  # the local executor starts a job again by its exit status
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        print(f"layerfit: scontrol requeue {job} failed: {error}", file=sys.stderr)
        return False
    if done.returncode:
        print(f"layerfit: scontrol requeue {job} failed: {done.stderr.strip()}", file=sys.stderr)
    return done.returncode == 0


def requeue_status(launcher: str) -> int:
    """Return the exit status of a job that goes back to the queue."""
    if launcher == SLURM:
        return EXIT_STATUS["interrupted"]
    from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

    return int(LOCAL_REQUEUE_RETURN_CODE)
