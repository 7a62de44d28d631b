"""Processes that execute runs: forked from a server that has imported everything; ranks by torch's launcher.

Importing torch, transformers, DeepSpeed and lm-eval takes longer than a small run; a sweep pays for it once.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerfit.distributed.parent import end_with_sweep
from layerfit.distributed.place import Place, writes
from layerfit.errors import UserError
from layerfit.files.os_errors import os_error_line
from layerfit.files.secrets import hide_output
from layerfit.files.writing import clear_temporaries
from layerfit.launch.queue import Queued, read_queued
from layerfit.records.record import EXIT_STATUS
from layerfit.run import interrupt

SERVER_LOST = 255
"""What multiprocessing gives as the exit status of a process whose fork server is gone: nobody knows how it ended."""


@dataclass
class Started:
    """A process that executes a run."""

    queued: Queued
    process: Any

    def exit_code(self) -> int | None:
        """Return the exit status, None while it runs, SERVER_LOST if that can no longer be known."""
        return None if self.process.is_alive() else self.process.exitcode

    def stop(self) -> None:
        """Ask it to stop after its step, with a checkpoint."""
        self.process.terminate()

    def kill(self) -> None:
        """End it at once; its last checkpoint stays."""
        self.process.kill()

    def kill_unseen(self) -> None:
        """End it at once although its fork server, which passes on how it ended, is gone."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)


def set_environment() -> None:
    """Set what torch, tokenizers and DeepSpeed read when they are imported, where the user has not."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def server() -> Any:
    """Start the fork server (if it is not running) and return its context."""
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["layerfit.launch.preload"])
    set_environment()
    forkserver.ensure_running()
    return context


def start(queued: Queued, context: Any, gpus: list[int], place: Place | None = None) -> Started:
    """Write the resolved run and start its process: on `gpus` if there are any to share out, or as a rank (`place`).

    Raises:
        OSError: if a file cannot be written, or the system starts no process.
        EOFError, ConnectionError: if the fork server is gone; the next call starts another.
    """
    if writes(place):
        queued.forget_failure()
    path = queued.write()
    process = context.Process(target=child, args=(path, gpus, place), daemon=False)
    process.start()
    return Started(queued, process)


def log_path(folder: Path, place: Place | None) -> Path:
    """Return where a rank's output goes: rank 0's to log.txt, rank 1's to log.1.txt."""
    return folder / ("log.txt" if place is None or writes(place) else f"log.{place.rank}.txt")


def child(path: Path, gpus: list[int], place: Place | None) -> None:
    """Execute a run in a forked process, under its folder's lock if this process writes; never returns."""
    with _leaving() as exit_status:
        _enter(path.parent, gpus, place)
        hide_output()
        import torch

        from layerfit.run import worker

        torch.set_num_threads(1)
        with interrupt.listening(), alone(path.parent) if writes(place) else nullcontext() as lock:
            if lock is not None:
                clear_temporaries(path.parent, locked=True)
            queued = read_queued(path)
            if place is None and queued.is_done():
                exit_status.append(0)
            else:
                if place is None and queued.run.engine.ranks > 1:
                    assert lock is not None
                    become_launcher(path, queued.run.engine.ranks, lock)
                exit_status.append(worker.work(path))


@contextmanager
def _leaving() -> Iterator[list[int]]:
    """End this process after the block, with the status that it leaves; what the system refused is the last line said.

    At once: interpreter shutdown of torch's and DeepSpeed's threads is slow and has nothing to save.
    """
    exit_status: list[int] = []
    try:
        yield exit_status
    except interrupt.Interrupted:  # while waiting for the lock
        exit_status.append(EXIT_STATUS["interrupted"])
    except (OSError, UserError) as error:
        exit_status.append(EXIT_STATUS["failed"])
        with suppress(OSError):  # the log may be on the disk that is full
            traceback.print_exc()
            print(f"layerfit: {os_error_line(error) if isinstance(error, OSError) else error}", file=sys.stderr)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_status[-1])


def _enter(folder: Path, gpus: list[int], place: Place | None) -> None:
    """Send this process's output to its log, take its input away, and tell it its GPUs and its rank."""
    no_input()
    with log_path(folder, place).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    if place is not None:
        end_with_sweep()
        place.export(os.environ)


def no_input() -> None:
    """Let this process and those that it becomes or starts read nothing: a library's question would wait for ever."""
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)


def become_launcher(path: Path, ranks: int, lock: int) -> None:
    """Turn this process into torch's launcher of `ranks` workers; the lock stays held while it lives.

    It passes a request to stop on to them, and gives them time for a step and a checkpoint.
    """
    os.set_inheritable(lock, True)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "layerfit.launch.rank", str(path), str(os.getpid())]  # which stays this process's
    os.execv(sys.executable, command)


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; wait for another process that has it. The kernel frees the lock of a killed process."""
    with (folder / "lock").open("w") as lock:
        with interrupt.at_once():
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
