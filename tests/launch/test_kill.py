"""Killed at any moment, the same sweep gives the same result; nothing half-written is ever read.

The sweeps are forked from a process that has imported everything (`tests/helpers/forks.py`), so all of their time is
that of runs; the command itself is killed with its fork server in `tests/faults/test_kills.py`.
"""

import os
import random
import shutil
import signal
import time

import pytest

from tests.helpers import forks
from tests.helpers.small_runs import results

WORDS = [
    "training.max_steps=12",
    "training.checkpoint_every=2",
    "training.batch_size=16",
    "eval.limit=40",
    "method.seed=3",
]
METHODS = ("full", "lisa", "ist", "ila")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_kills_change_nothing(tmp_path, kills):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    seed = {"ist": "3", "ila": "3", "lisa": "3"}
    runs = forks.composed(
        *[[f"method={m}", *WORDS, *([f"method.seed={seed[m]}"] if m in seed else [])] for m in METHODS]
    )
    forks.sweep(tmp_path / "warm", runs[:1]).join()  # the server imports
    began = time.monotonic()
    process = forks.sweep(straight, runs)
    process.join()
    assert process.exitcode == 0, (straight / "log").read_text()[-2000:]
    duration = time.monotonic() - began
    rng, landed = random.Random(0), 0
    while landed < kills:
        process = forks.sweep(killed, runs)
        # From the start of a process to the end of an undisturbed sweep; a sweep that is done begins again elsewhere.
        process.join(rng.uniform(0.05, 0.7) * duration)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            landed += 1
            process.join()
            assert set(results(killed)) <= set(results(straight))
        elif landed < kills:
            assert process.exitcode == 0, (killed / "log").read_text()[-2000:]
            assert results(killed) == results(straight)
            shutil.rmtree(killed / "results")
    process = forks.sweep(killed, runs)
    process.join()
    assert process.exitcode == 0, (killed / "log").read_text()[-2000:]
    assert results(killed) == results(straight)
    assert len(results(straight)) == 5  # four runs and the ranking that one of them needs
