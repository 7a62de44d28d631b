"""Killed at any moment, the same command gives the same result; nothing half-written is ever read."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerfit.records import record

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "layerfit", "-m", "method=full,lisa,ist,ila", "training.max_steps=24"]
COMMAND += ["training.checkpoint_every=4", "training.batch_size=16", "eval.limit=100", "method.seed=3"]
KILLS = 20


def start(folder: Path) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("a") as log:
        return subprocess.Popen(COMMAND, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)


def results(folder: Path) -> dict[str, str]:
    """The `result` part and the items of every record, as text."""
    out = {}
    for path in sorted((folder / "results" / "runs").glob("*.json")):
        found = record.read(folder / "results", path.stem)
        items = record.read_items(folder / "results", path.stem)
        out[path.stem] = json.dumps([dataclasses.asdict(found.result), items], sort_keys=True)
    return out


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    began = time.monotonic()
    assert start(straight).wait(timeout=600) == 0
    duration = time.monotonic() - began
    rng, landed = random.Random(0), 0
    while landed < KILLS:
        process = start(killed)
        # From the start of a process to the end of an undisturbed sweep; a sweep that is done begins again elsewhere.
        time.sleep(rng.uniform(0.2, 0.8) * duration)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            landed += 1
            process.wait()
            assert set(results(killed)) <= set(results(straight))
        elif landed < KILLS:
            assert process.returncode == 0, (killed / "log").read_text()[-2000:]
            assert results(killed) == results(straight)
            shutil.rmtree(killed / "results")
    assert start(killed).wait(timeout=600) == 0, (killed / "log").read_text()[-2000:]
    assert results(killed) == results(straight)
    assert len(results(straight)) == 5  # four runs and the ranking that one of them needs
