"""Sweeps and runs in processes forked from one that has imported everything: a second each, so that many can be killed.

What differs from the command: the runs are composed before, and a sweep forks its runs itself, without a server.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.distributed.place import Place, writes
from layerfit.launch import local, processes
from layerfit.launch.failing import look_up
from layerfit.launch.queue import Queue

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "shutil.rmtree")


def composed(*cells: list[str]) -> list[RunConfig]:
    with config.composer():
        return [config.compose(words) for words in cells]


@functools.cache
def server() -> Any:
    """The process that has imported everything; one for all tests."""
    return processes.server()


def sweep(folder: Path, runs: list[RunConfig], memory: int | None = None) -> Any:
    """Start a sweep, as `layerfit -m ...` in a folder; it and its runs are one process group.

    memory: bytes that each of its processes may map in addition to what it has at the start.
    """
    return _start(_sweep, folder, [config.dump(run) for run in runs], memory)


def ranks(folder: Path, run: RunConfig, port: int) -> list[Any]:
    """Start the ranks of a run as srun would: a process each, which meet at a port of this machine."""
    number = run.engine.ranks
    return [_start(_rank, folder, config.dump(run), rank, number, port) for rank in range(number)]


def one_run(folder: Path, run: RunConfig, kill_at: int | None = None) -> Any:
    """Start a run in one process, parent and worker in one; it is killed at its k-th operation on files."""
    return _start(_one_run, folder, config.dump(run), kill_at)


def _start(target: Callable[..., None], folder: Path, *args: Any) -> Any:
    folder.mkdir(exist_ok=True)
    process = server().Process(target=_begin, args=(target, str(folder), args))
    process.start()
    return process


def _begin(target: Callable[..., None], folder: str, args: tuple[Any, ...]) -> None:
    os.chdir(folder)
    os.setsid()
    with Path("log").open("a") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    target(*args)


def _sweep(dumped: list[dict], memory: int | None) -> None:
    if memory is not None:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))
    local.server = lambda: multiprocessing.get_context("fork")
    ok = local.run_all([config.load(one) for one in dumped], group="sweep")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if ok else 1)


def _rank(dumped: dict, rank: int, number: int, port: int) -> None:
    place = Place(rank, number, rank, "localhost", port)
    queue = Queue("sweep")
    run_id = queue.add(config.load(dumped))
    if writes(place):
        queue.runs[run_id].forget_failure()
    processes.child(queue.runs[run_id].write(), [], place)


def _one_run(dumped: dict, kill_at: int | None) -> None:
    queue = Queue("sweep")
    run_id = queue.add(config.load(dumped))
    count_operations(kill_at)
    todo, _ = look_up(queue)
    if run_id not in todo:
        os._exit(0)
    todo[run_id].forget_failure()
    processes.child(todo[run_id].write(), [], None)


def count_operations(kill_at: int | None) -> None:
    """Write every operation that changes files to `operations`, and kill this process at the k-th.

    Before a flush to disk half of what was written is cut off: a machine that loses power may do so.
    """
    here, done = str(Path.cwd()), 0
    notes = os.open("operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(what: str, path: str, handle: int | None = None) -> None:
        nonlocal done
        done += 1
        os.write(notes, f"{what} {path}\n".encode())
        if done == kill_at:
            if handle is not None:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" and event not in OPERATIONS:
            return
        if (event == "open" and not args[2] & WRITING) or (event == "os.remove" and args[1] != -1):
            return  # read, or in a folder of the system's by its number
        if isinstance(args[0], (str, bytes, os.PathLike)):
            path = str(Path.cwd() / os.fsdecode(args[0]))
            if path.startswith(here):
                note(event, path.removeprefix(here))

    flush = os.fsync

    def fsync(handle: int) -> None:
        note("fsync", str(Path(f"/proc/self/fd/{handle}").readlink()).removeprefix(here), handle)
        flush(handle)

    os.fsync = fsync
    sys.addaudithook(hook)
