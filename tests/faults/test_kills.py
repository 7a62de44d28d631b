"""Killed at any operation on files, at any moment, in any of its processes: the same command gives the same result."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from layerfit import config
from tests.helpers import forks
from tests.helpers.small_runs import SMALL, command, environment, results

NO_EVAL = [word for word in SMALL if not word.startswith("eval")] + ["eval=none"]
RUNS = {
    "weights": (["method=lisa", "engine=torch", "save.weights=final", *NO_EVAL], ""),
    "items": (["method=lisa", "engine=torch", *SMALL], "/results"),
    "ranking": (["method=ila_ranking", "engine=torch", "method.mask_steps=2", *NO_EVAL], "/results"),
}
"""Runs, and below which folder they are killed: what lies outside it another of them has."""


def bytes_of(folder: Path) -> dict[str, bytes | str]:
    """What a run leaves, but for times, logs and what it was given."""
    kept = [*folder.glob("results/rankings/*"), *folder.glob("outputs/*/model/*"), *folder.glob("outputs/*/adapter/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept} | results(folder)


def temporaries(folder: Path) -> list[Path]:
    return [*folder.rglob("*.part"), *folder.rglob("*.writing")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_killed_at_every_operation_on_files(tmp_path, kind):
    words, below = RUNS[kind]
    (run,) = forks.composed(words)
    straight = tmp_path / "straight"
    process = forks.one_run(straight, run)
    process.join()
    assert process.exitcode == 0, (straight / "log").read_text()
    expected, operations = bytes_of(straight), (straight / "operations").read_text().splitlines()
    assert len(operations) > 20
    for number, operation in [one for one in enumerate(operations, 1) if f" {below}" in one[1]]:
        folder = tmp_path / str(number)
        killed = forks.one_run(folder, run, kill_at=number)
        killed.join()
        assert killed.exitcode == -signal.SIGKILL, operation
        assert set(results(folder)) <= set(expected), operation  # nothing half-written is read
        again = forks.one_run(folder, run)
        again.join()
        assert again.exitcode == 0, (operation, (folder / "log").read_text())
        assert bytes_of(folder) == expected, operation
        assert temporaries(folder) == [], operation
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def end(processes: list, folder: Path) -> list[int]:
    for process in processes:
        process.join(240)
        assert not process.is_alive(), (folder / "log").read_text()[-3000:]
    return [process.exitcode for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero2", pytest.param("zero3", marks=pytest.mark.exhaustive)])
def test_two_ranks_killed_at_random_moments(tmp_path, engine):
    """One of them, or both at once; those that are left end by themselves."""
    words = [
        "method=lisa",
        f"engine={engine}",
        "engine.ranks=2",
        *SMALL,
        "training.max_steps=8",
        "method.switch_every=3",
    ]
    (run,) = forks.composed(words)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert end(forks.ranks(straight, run, free_port()), straight) == [0, 0]
    began = time.monotonic()
    assert end(forks.ranks(tmp_path / "again", run, free_port()), tmp_path / "again") == [0, 0]
    duration = time.monotonic() - began
    assert results(tmp_path / "again") == results(straight)
    rng, landed = random.Random(0), 0
    for whom in ([0, 1], [0], [1], [0, 1]):
        processes = forks.ranks(killed, run, free_port())
        time.sleep(rng.uniform(0.2, 0.9) * duration)
        for rank in whom:
            landed += processes[rank].is_alive()
            processes[rank].kill()
        end(processes, killed)
        statuses = [json.loads(found)[0]["status"] for found in results(killed).values()]
        assert set(statuses) <= {"failed", "ok"}
        if "ok" in statuses:  # it was faster: the next kill meets a run that begins anew
            assert results(killed) == results(straight)
            shutil.rmtree(killed)
    assert landed > 0
    assert end(forks.ranks(killed, run, free_port()), killed) == [0, 0], (killed / "log").read_text()[-3000:]
    assert results(killed) == results(straight)


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for path in found for word in path.read_text().split()]


def fork_server_of(process: int) -> int:
    return next(c for c in children(process) if b"forkserver" in Path(f"/proc/{c}/cmdline").read_bytes())


def wait_until(true, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


SWEEP = [*SMALL, "training.max_steps=60", "training.batch_size=16"]


def trains(folder: Path) -> bool:
    return any('"event": "step"' in path.read_text() for path in folder.glob("outputs/*/metrics.jsonl"))


def steps(folder: Path, run_id: str) -> list[int]:
    lines = (folder / "outputs" / run_id / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines if '"event": "step"' in line]


@pytest.mark.slow
def test_the_fork_server_is_killed_in_the_middle_of_a_sweep(tmp_path):
    """Its runs go on, unseen; the sweep says so, takes them up again, and ends as if nothing had happened."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    methods = ("full", "lora", "lisa")
    process = forks.sweep(straight, forks.composed(*[[f"method={method}", *SWEEP] for method in methods]))
    process.join()
    assert process.exitcode == 0, (straight / "log").read_text()
    killed.mkdir()
    with (killed / "said").open("w") as said:
        words = command("-m", f"method={','.join(methods)}", *SWEEP)
        sweep = subprocess.Popen(words, cwd=killed, env=environment(), stdout=said, stderr=said)
    wait_until(lambda: trains(killed))
    os.kill(fork_server_of(sweep.pid), signal.SIGKILL)
    assert sweep.wait(timeout=300) == 0, (killed / "said").read_text()
    said = (killed / "said").read_text()
    assert 1 <= said.count("the process that starts runs was killed; this run is taken up again") <= 3
    assert "Traceback" not in said
    assert results(killed) == results(straight)
    for run_id in results(killed):
        assert steps(killed, run_id) == list(range(1, 61))  # none was trained twice


@pytest.mark.slow
def test_runs_outlive_their_sweep_and_are_found_done(tmp_path):
    """By design: who is killed loses the view of the runs under way, not the runs."""
    runs = forks.composed(["method=full", *SWEEP], ["method=lora", *SWEEP])
    sweep = forks.sweep(tmp_path, runs)
    wait_until(lambda: trains(tmp_path))
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.join()
    again = forks.sweep(tmp_path, runs)  # waits for those that still run, and trains nothing twice
    again.join()
    assert again.exitcode == 0, (tmp_path / "log").read_text()
    found = results(tmp_path)
    assert [json.loads(one)[0]["status"] for one in found.values()] == ["ok", "ok"]
    for run_id in found:
        assert steps(tmp_path, run_id) == list(range(1, 61))


@pytest.mark.slow
def test_out_of_memory_is_recorded_and_the_others_go_on(tmp_path):
    large = ["training.batch_size=1912", "training.max_length=64", "training.max_steps=1", "eval=none"]
    runs = forks.composed(["method=full", *large], ["method=lora", *SMALL], ["method=lisa", *SMALL])
    sweep = forks.sweep(tmp_path, runs, memory=400 * 2**20)
    sweep.join()
    assert sweep.exitcode == 1
    found = results(tmp_path)
    ended = [json.loads(found[config.run_id(run)])[0] for run in runs]
    assert [one["status"] for one in ended] == ["oom", "ok", "ok"], ended[0]["message"]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_said_to_be(tmp_path):
    """The kernel's killer of processes sends what anybody may send: the line says what can be known."""
    runs = forks.composed(["method=full", *SWEEP])
    sweep = forks.sweep(tmp_path, runs)
    wait_until(lambda: trains(tmp_path))
    os.kill(children(sweep.pid)[0], signal.SIGKILL)
    sweep.join()
    assert sweep.exitcode == 1
    (found,) = map(json.loads, results(tmp_path).values())
    assert found[0]["status"] == "failed"
    assert found[0]["message"].startswith("the worker was killed (signal 9); out of memory?; see ")
