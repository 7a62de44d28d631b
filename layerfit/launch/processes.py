"""Starting runs as processes: forked from a server that has imported everything; ranks by torch's launcher.

Importing torch, transformers, DeepSpeed and lm-eval takes longer than a small run; a sweep pays for it once.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.distributed.place import Place, writes
from layerfit.records import record
from layerfit.run import interrupt


@dataclass
class Started:
    """A process that executes a run."""

    run: RunConfig
    run_id: str
    folder: Path
    process: Any

    def exit_code(self) -> int | None:
        """Return the exit status, None while it runs."""
        return None if self.process.is_alive() else self.process.exitcode

    def stop(self) -> None:
        """Ask it to stop after its step, with a checkpoint."""
        self.process.terminate()

    def kill(self) -> None:
        """End it at once; its last checkpoint stays."""
        self.process.kill()


def run_folder(run: RunConfig) -> Path:
    """Return where the working files of a run are."""
    return Path(run.paths.outputs) / config.run_id(run)


def status_of(run: RunConfig) -> str | None:
    """Return the status of a run's record, None if there is none."""
    found = record.read(run.paths.results, config.run_id(run))
    return None if found is None else found.result.status


def is_done(run: RunConfig) -> bool:
    """Return whether a run needs no more work: a diverged run is a result, a failed one is tried again.

    A run that is ok is run again if its weights are asked for and were not kept.
    """
    status = status_of(run)
    if status != "ok" or run.save.weights == "none":
        return status in record.FINAL
    return any((run_folder(run) / kind).is_dir() for kind in record.WEIGHT_FOLDERS)


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


def start(run: RunConfig, context: Any, gpus: list[int], place: Place | None = None) -> Started:
    """Write the resolved run and start its process: on `gpus` if there are any to share out, or as a rank (`place`)."""
    folder = run_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    if writes(place) and status_of(run) not in record.FINAL:  # how an earlier try ended says nothing of this one
        record.record_path(run.paths.results, folder.name).unlink(missing_ok=True)
    path = folder / "run.json"
    record.write_atomically(path, (json.dumps(config.dump(run), indent=1) + "\n").encode())
    process = context.Process(target=child, args=(str(path), gpus, place), daemon=False)
    process.start()
    return Started(run, folder.name, folder, process)


def log_path(folder: Path, place: Place | None) -> Path:
    """Return where a rank's output goes: rank 0's to log.txt, rank 1's to log.1.txt."""
    return folder / ("log.txt" if place is None or writes(place) else f"log.{place.rank}.txt")


def child(path: str, gpus: list[int], place: Place | None) -> None:
    """Execute a run in a forked process, with its output in its log."""
    with log_path(Path(path).parent, place).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    if place is not None:
        place.export(os.environ)
    with interrupt.listening():
        code = _alone_if_writing(path, place)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # interpreter shutdown of torch's and DeepSpeed's threads is slow and has nothing to save


def _alone_if_writing(path: str, place: Place | None) -> int:
    """Execute a run, holding its folder's lock if this process writes; return the exit status of `worker.main`."""
    import torch

    from layerfit.run import worker

    torch.set_num_threads(1)
    if not writes(place):
        return worker.main(path)
    run = config.load(json.loads(Path(path).read_text()))
    try:
        with alone(Path(path).parent) as lock:
            if place is None and is_done(run):
                return 0
            if place is None and run.engine.ranks > 1:
                become_launcher(path, run.engine.ranks, lock)
            return worker.main(path)
    except interrupt.Interrupted:  # while waiting for the lock
        return record.EXIT_STATUS["interrupted"]


def become_launcher(path: str, ranks: int, lock: int) -> None:
    """Turn this process into torch's launcher of `ranks` workers; the lock stays held while it lives.

    Asked to stop, it asks them, and gives them the time for a step and a checkpoint.
    """
    os.set_inheritable(lock, True)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "layerfit.run.worker", path]
    os.execv(sys.executable, command)


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; wait for another process that has it. The kernel frees the lock of a killed process."""
    with (folder / "lock").open("w") as lock:
        with interrupt.at_once():
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
