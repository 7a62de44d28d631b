"""Starting runs as processes: forked from a server that has imported everything, or by torch's launcher for ranks.

Importing torch, transformers, DeepSpeed and lm-eval takes longer than a small run; a sweep pays for it once.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerfit import config, record
from layerfit.schema import RunConfig


@dataclass
class Started:
    """A process that executes a run."""

    run: RunConfig
    run_id: str
    folder: Path
    process: Any

    def exit_code(self) -> int | None:
        """Return the exit status, None while it runs."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll()
        return None if self.process.is_alive() else self.process.exitcode

    def stop(self) -> None:
        """End it; its checkpoint stays."""
        self.process.terminate()


def server() -> Any:
    """Start the fork server (if it is not running) and return its context."""
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["layerfit.preload"])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    forkserver.ensure_running()
    return context


def start(run: RunConfig, context: Any, gpu: int | None) -> Started:
    """Write the resolved run and start its process; on `gpu` if there are several to share out."""
    run_id = config.run_id(run)
    folder = Path(run.paths.outputs) / run_id
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    record.write_atomically(path, (json.dumps(config.dump(run), indent=1) + "\n").encode())
    if run.engine.ranks == 1:
        process = context.Process(target=child, args=(str(path), gpu), daemon=False)
        process.start()
        return Started(run, run_id, folder, process)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(run.engine.ranks)]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "layerfit.worker", str(path)]
    with (folder / "log.txt").open("a") as log:
        ranks = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    return Started(run, run_id, folder, ranks)


def child(path: str, gpu: int | None) -> None:
    """Execute a run in a forked process: output to its log, one thread, alone in its folder."""
    folder = Path(path).parent
    with (folder / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    import torch

    from layerfit import worker

    torch.set_num_threads(1)
    run = config.load(json.loads(Path(path).read_text()))
    with alone(folder):
        found = record.read(run.paths.results, config.run_id(run))
        if found is None or found.result.status not in record.FINAL:
            code = worker.main(path)
            sys.stdout.flush()
            os._exit(code)  # interpreter shutdown of torch's and DeepSpeed's threads is slow and has nothing to save


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; wait for another process that has it. The kernel frees the lock of a killed process."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
