"""Memory that is not there is `oom` on a CPU too, whoever says so and in whatever words; nothing else is."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layerfit import config
from layerfit.launch.queue import Queued
from layerfit.records import record
from layerfit.run import worker
from layerfit.run.failures import describe_error, is_out_of_memory

ROOT = Path(__file__).resolve().parents[2]


def raised_from(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            raise ValueError("while a batch was made") from cause
    except ValueError as outer:
        return outer


WORDS = {
    "torch on a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4096000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "torch, another line": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    "C++": RuntimeError("std::bad_alloc"),
    "Python": MemoryError(),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "CUDA": RuntimeError("CUDA error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "a cause": raised_from(MemoryError()),
}
OTHERS = (RuntimeError("The size of tensor a (3) must match"), OSError(errno.ENOSPC, "No space left"), ValueError("x"))


@pytest.mark.parametrize("error", WORDS.values(), ids=WORDS)
def test_memory_that_is_not_there_is_known_by_every_name(error):
    assert is_out_of_memory(error)
    assert "\n" not in describe_error(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_another_error_is_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def queued(folder, *words):
    paths = [f"paths.{kind}={folder / kind}" for kind in ("outputs", "results")]
    with config.composer():
        run = config.compose(["engine=torch", "eval=none", "training.batch_size=4", *words, *paths])
    return Queued(run, config.run_id(run))


def test_a_run_without_memory_is_recorded_as_oom_and_lets_go_of_what_it_held(tmp_path, monkeypatch):
    held = []

    class Big:
        def __init__(self):
            held.append(self)

        def __del__(self):
            held.append("freed")

    def starving(attempt):
        big = Big()
        held.clear()
        raise WORDS["torch on a CPU"] if big else None

    item = queued(tmp_path, "method=lora", "training.max_steps=1")
    monkeypatch.setattr(worker, "execute", starving)
    writing = record.write
    monkeypatch.setattr(record, "write", lambda *args: held.append("written") or writing(*args))
    assert worker.work(item.write()) == record.EXIT_STATUS["oom"]
    found = record.read(item.run.paths.results, item.run_id).result
    assert (found.status, found.scores) == ("oom", [])
    assert "can't allocate memory" in found.message
    assert held == ["freed", "written"]


LIMITED = """
import resource, sys
from layerfit.engines.torch import TorchEngine
from layerfit.run import worker
taken = TorchEngine.take_step
def step(self, *args):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    TorchEngine.take_step = taken
    return taken(self, *args)
TorchEngine.take_step = step
sys.exit(worker.main(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_process_under_a_limit_ends_as_oom(tmp_path):
    """64 MiB are left when the first step begins; a step of 512 rows needs more."""
    item = queued(tmp_path, "method=full", "training.max_steps=3", "training.batch_size=512")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, str(item.write())]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    found = json.loads(record.record_path(item.run.paths.results, item.run_id).read_text())
    assert found["result"]["status"] == "oom"
    assert found["result"]["losses"] == []
