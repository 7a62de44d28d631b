"""Ranks whose launcher is killed are gone within seconds, at any moment of their start: nothing trains unseen."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerfit.distributed.parent import end_with
from layerfit.distributed.place import Place
from layerfit.launch import processes
from tests.helpers.small_runs import SMALL, command, environment

RANK = """
import os, sys, time
from layerfit.distributed.parent import end_with
{early}
end_with(int(sys.argv[1]))
print("lives", os.getpid(), flush=True)
time.sleep(60)
"""
LAUNCHER = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())]).wait()
"""


def launch(early: str = "") -> subprocess.Popen:
    words = [sys.executable, "-c", LAUNCHER, RANK.format(early=early)]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)


def is_there(process: int) -> bool:
    """Whether it lives: one that nobody has asked for its end does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.02)


def test_a_rank_ends_with_its_launcher():
    launcher = launch()
    rank = int(launcher.stdout.readline().split()[1])
    assert is_there(rank)
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not is_there(rank), 5)


def test_a_rank_whose_launcher_was_faster_ends_at_once():
    """The launcher is gone before the rank can ask to be ended with it."""
    early = "print('starts', os.getpid(), flush=True)\n"
    early += "while os.getppid() == int(sys.argv[1]): time.sleep(0.01)"
    launcher = launch(early)
    rank = int(launcher.stdout.readline().split()[1])
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not is_there(rank), 5)
    assert launcher.stdout.read() == ""  # it has not said that it lives


def test_another_parent_is_no_launcher():
    process = multiprocessing.get_context("fork").Process(target=end_with, args=(1,))
    process.start()
    process.join(10)
    assert process.exitcode == 1


def test_the_launcher_is_told_to_every_rank(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(os, "execv", lambda _, words: said.extend(words))
    with (tmp_path / "lock").open("w") as lock:
        processes.become_launcher(tmp_path / "run.json", 2, lock.fileno())
    assert said[-4:] == ["-m", "layerfit.launch.rank", str(tmp_path / "run.json"), str(os.getpid())]


def below(process: int) -> list[int]:
    """All that a process has started, and they."""
    try:
        found = [int(w) for p in Path(f"/proc/{process}/task").glob("*/children") for w in p.read_text().split()]
    except OSError:
        return []
    return found + [other for one in found for other in below(one)]


def with_words(text: str, among: list[int]) -> list[int]:
    out = []
    for process in among:
        try:
            if text.encode() in Path(f"/proc/{process}/cmdline").read_bytes():
                out.append(process)
        except OSError:
            pass
    return out


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(3))
def test_the_launcher_is_killed_while_its_ranks_start(tmp_path, moment):
    """At a moment between the start of the ranks and their meeting: imports take most of it."""
    with (tmp_path / "said").open("w") as said:
        words = command("method=full", "engine.ranks=2", *SMALL, "training.max_steps=2000")
        sweep = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=said, stderr=said)
    try:
        wait_until(lambda: len(with_words("layerfit.launch.rank", below(sweep.pid))) == 3, 200)  # and the launcher
        time.sleep(random.Random(moment).uniform(0, 8))
        ranks = with_words("layerfit.launch.rank", below(sweep.pid))
        (launcher,) = with_words("torch.distributed.run", ranks)
        os.kill(launcher, signal.SIGKILL)
        wait_until(lambda: not any(map(is_there, ranks)), 10)
        assert sweep.wait(timeout=60) == 1
    finally:
        sweep.kill()
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    (found,) = (tmp_path / "results" / "runs").glob("*.json")
    assert "the worker was killed (signal 9); out of memory?" in found.read_text()


@pytest.mark.slow
def test_a_rank_that_waits_for_others_ends_with_its_sweep(tmp_path):
    """One of two ranks is started, the other never: it would wait for five minutes after its sweep is gone."""
    place = Place(0, 2, 0, "localhost", 29999)
    names = {}
    place.export(names)
    with (tmp_path / "said").open("w") as said:
        words = command("method=full", *SMALL)
        sweep = subprocess.Popen(words, cwd=tmp_path, env=environment() | names, stdout=said, stderr=said)
    wait_until(lambda: list(tmp_path.glob("outputs/*/metrics.jsonl")), 200)
    rank = with_words("forkserver", below(sweep.pid))
    sweep.kill()
    sweep.wait()
    wait_until(lambda: not any(map(is_there, rank)), 10)
