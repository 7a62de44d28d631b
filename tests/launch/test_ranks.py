"""Ranks started separately, each with the environment that a launcher gives it: the record of engine.ranks=2."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerfit.records import record
from tests.run.test_interrupt import events, wait_for

ROOT = Path(__file__).resolve().parents[2]
RUN = ["method=lisa", "training.batch_size=16", "eval.limit=100", "training.max_steps=300"]
RUN += ["training.checkpoint_every=7"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def of_srun(port: int) -> list[dict[str, str]]:
    step = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
    step |= {"SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(port)}
    return [step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]


def of_deepspeed(port: int) -> list[dict[str, str]]:
    """What `deepspeed --hostfile` sets on its hosts (deepspeed/launcher/launch.py)."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "CROSS_RANK": "0"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")} | {
        "PYTHONPATH": str(ROOT)
    }


def start(folder: Path, environments: list[dict[str, str]], overrides: list[str]) -> list[subprocess.Popen]:
    """Start one `layerfit` for every environment; output to out.<rank>."""
    folder.mkdir(exist_ok=True)
    out = []
    for rank, said in enumerate(environments):
        with (folder / f"out.{rank}").open("a") as file:
            command = [sys.executable, "-m", "layerfit", *overrides]
            environment = clean_environment() | said
            out.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file))
    return out


def wait(processes: list[subprocess.Popen], seconds: float = 300) -> list[int]:
    return [process.wait(timeout=seconds) for process in processes]


def results(folder: Path) -> dict[str, str]:
    """`result` part and items of every record, as text."""
    out = {}
    for path in sorted((folder / "results/runs").glob("*.json")):
        found = record.read(folder / "results", path.stem)
        out[path.stem] = json.dumps(
            [dataclasses.asdict(found.result), record.read_items(folder / "results", path.stem)]
        )
    return out


@pytest.fixture(scope="module")
def one_command(tmp_path_factory):
    """The same run by `engine.ranks=2`."""
    folder = tmp_path_factory.mktemp("ranks") / "one"
    assert wait(start(folder, [{}], [*RUN, "engine.ranks=2"])) == [0]
    return results(folder)


@pytest.mark.slow
def test_killed_and_interrupted_ranks_give_the_record_of_one_command(tmp_path, one_command):
    folder = tmp_path / "separate"
    killed = start(folder, of_srun(free_port()), RUN)
    wait_for(folder, lambda event: event.get("step") == 20)
    began = time.monotonic()
    killed[1].send_signal(signal.SIGKILL)
    assert wait(killed) == [1, -signal.SIGKILL]
    assert time.monotonic() - began < 60
    (found,) = (json.loads(text)[0] for text in results(folder).values())
    assert found["status"] == "failed"
    assert found["message"].startswith("rank 1 of 2 stopped without a final status: it was killed")
    assert found["message"] in (folder / "out.0").read_text()

    stopped = start(folder, of_deepspeed(free_port()), [*RUN, "--local_rank=0"])
    wait_for(folder, lambda event: event.get("step") == 100)
    for process in stopped:
        process.send_signal(signal.SIGTERM)
    assert wait(stopped) == [128 + signal.SIGTERM] * 2
    (found,) = (json.loads(text)[0] for text in results(folder).values())
    assert found["status"] == "interrupted"

    assert wait(start(folder, of_srun(free_port()), RUN)) == [0, 0]
    assert results(folder) == one_command
    steps = [event["step"] for event in events(folder) if event["event"] == "step"]
    assert steps[-201:] == list(range(100, 301)), "a step after the signal was lost or taken twice"
    assert "lisa" not in (folder / "out.1").read_text()  # one rank speaks


@pytest.mark.slow
def test_rank_0_killed_stops_the_others(tmp_path):
    killed = start(tmp_path / "separate", of_srun(free_port()), RUN)
    wait_for(tmp_path / "separate", lambda event: event.get("step") == 20)
    began = time.monotonic()
    killed[0].send_signal(signal.SIGKILL)
    assert wait(killed) == [-signal.SIGKILL, 1]
    assert time.monotonic() - began < 60
    assert "rank 0 of 2 stopped without a final status" in (tmp_path / "separate/out.1").read_text()
    assert results(tmp_path / "separate") == {}


@pytest.mark.slow
def test_torchrun_and_a_sweep_with_a_required_run(tmp_path):
    sweep = ["-m", "method=ila,full", "training.max_steps=6", "training.batch_size=16", "eval.limit=50"]
    sweep += ["method.seed=3"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    torchrun += ["--rdzv-endpoint", "localhost:0", "-m", "layerfit", *sweep]
    (tmp_path / "torchrun").mkdir()
    done = subprocess.run(
        torchrun, cwd=tmp_path / "torchrun", env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert wait(start(tmp_path / "one", [{}], [*sweep, "engine.ranks=2"])) == [0]
    assert len(results(tmp_path / "one")) == 3
    assert results(tmp_path / "torchrun") == results(tmp_path / "one")


@pytest.mark.slow
def test_ranks_that_share_no_files_are_refused(tmp_path):
    folder, other = tmp_path / "separate", tmp_path / "other"
    other.mkdir()
    stopped = start(folder, of_srun(free_port()), RUN)
    wait_for(folder, lambda event: event.get("step") == 10)
    for process in stopped:
        process.send_signal(signal.SIGUSR1)
    wait(stopped)
    zero, one = of_srun(free_port())
    ranks = start(folder, [zero], RUN) + start(other, [one], RUN)
    assert wait(ranks) == [1, 1]
    assert "the ranks do not find the same checkpoint" in (folder / "out.0").read_text()


def test_another_number_of_ranks_is_refused(tmp_path):
    (zero, _) = of_srun(free_port())
    assert wait(start(tmp_path, [zero], ["engine.ranks=4"])) == [2]
    assert "engine.ranks=4, but 2 ranks were started; leave it out" in (tmp_path / "out.0").read_text()
