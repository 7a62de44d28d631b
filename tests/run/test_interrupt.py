"""Asked to stop, a run leaves a checkpoint and the status `interrupted`, and the same command goes on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerfit.records import record
from layerfit.run import interrupt
from layerfit.run.interrupt import Interrupted

ROOT = Path(__file__).resolve().parents[2]
RUN = ["method=lisa", "training.batch_size=16", "eval.limit=100", "training.checkpoint_every=0"]


def test_signals_are_noted_and_heeded_where_nothing_is_lost():
    before = signal.getsignal(signal.SIGUSR1)
    with interrupt.listening():
        assert interrupt.asked() is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupt.asked() == "SIGUSR1"
        with pytest.raises(Interrupted, match="SIGUSR1") as stopped, interrupt.at_once():
            pytest.fail("it was asked before")
        assert stopped.value.exit_status == 128 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is before
    assert interrupt.asked() is None


def library() -> None:
    """Work that a signal falls into, by code that catches every Exception."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        time.sleep(20)
    except Exception:
        pytest.fail("swallowed")


def test_a_signal_cuts_short_what_can_be_done_again():
    with interrupt.listening():
        with pytest.raises(Interrupted), interrupt.at_once():
            library()
        assert interrupt.asked() == "SIGTERM"


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "layerfit", *RUN, *overrides]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "out").open("a") as out:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)


def events(folder: Path) -> list[dict]:
    lines = [line for path in folder.glob("outputs/*/metrics.jsonl") for line in path.read_text().split("\n")[:-1]]
    return [json.loads(line) for line in lines]


def wait_for(folder: Path, true, seconds=120.0) -> None:
    end = time.monotonic() + seconds
    while not any(true(event) for event in events(folder)):
        assert time.monotonic() < end, [path.read_text() for path in folder.glob("out*")]
        time.sleep(0.02)


def only_record(folder: Path) -> record.Record:
    (path,) = (folder / "results/runs").glob("*.json")
    return record.read(folder / "results", path.stem)


def the_result(folder: Path) -> str:
    found = only_record(folder)
    return json.dumps([dataclasses.asdict(found.result), record.read_items(folder / "results", found.run_id)])


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGUSR1), (2, signal.SIGTERM), (1, signal.SIGINT)])
def test_no_step_is_lost(tmp_path, ranks, number):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    overrides = [f"engine.ranks={ranks}", "training.max_steps=200"]
    for folder in (straight, stopped):
        folder.mkdir()
    first = start(stopped, *overrides)
    wait_for(stopped, lambda event: event.get("step") == 20)
    first.send_signal(number)
    assert first.wait(timeout=60) == 128 + number
    said = (stopped / "out").read_text()
    assert "the same command goes on" in said
    assert "Traceback" not in said
    halfway = only_record(stopped).result
    assert halfway.status == "interrupted"
    assert 20 <= len(halfway.losses) < 200
    assert f"after {len(halfway.losses)} steps" in halfway.message
    assert start(stopped, *overrides).wait(timeout=300) == 0
    steps = [event["step"] for event in events(stopped) if event["event"] == "step"]
    assert steps == list(range(1, 201))  # none twice, none missing
    assert start(straight, *overrides).wait(timeout=300) == 0
    assert the_result(stopped) == the_result(straight)


@pytest.mark.slow
def test_stopped_while_evaluating_it_does_not_train_again(tmp_path):
    overrides = ["training.max_steps=5", "eval.limit=null", "eval.batch_size=1"]
    first = start(tmp_path, *overrides)
    wait_for(tmp_path, lambda event: event.get("name") == "evaluate")
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=30) == 128 + signal.SIGTERM
    assert only_record(tmp_path).result.status == "interrupted"
    assert start(tmp_path, "training.max_steps=5", "eval.limit=null").wait(timeout=300) == 0
    assert only_record(tmp_path).result.status == "ok"
    assert [event["step"] for event in events(tmp_path) if event["event"] == "step"] == [1, 2, 3, 4, 5]
