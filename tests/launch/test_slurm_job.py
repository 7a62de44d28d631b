"""What a job does: one rank of a run, stopped, sent back to the queue, recorded; real jobs against a local sweep."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerfit import config
from layerfit.launch import slurm_job
from layerfit.launch.queue import Queued
from layerfit.records import record
from layerfit.run import interrupt
from tests.helpers.cluster_fakes import SWEEP, cluster
from tests.helpers.small_runs import results

__all__ = ["cluster"]
ROOT = Path(__file__).resolve().parents[2]


def as_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints where its file descriptors lead, and its arguments are its own."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    for number, name in ((1, "stdout"), (2, "stderr")):
        monkeypatch.setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def run_of(tmp_path: Path, *overrides: str) -> slurm_job.Task:
    """The task of a run as it is submitted."""
    with config.composer():
        run = config.compose(["method=lora", *overrides])
    path = Queued(run, config.run_id(run)).write()
    return slurm_job.Task(str(path.absolute()), ["layerfit"], "slurm", True)


@pytest.mark.parametrize("array", [True, False])
def test_a_run_that_was_told_to_stop_goes_back_to_the_queue(cluster, monkeypatch, tmp_path, array):
    monkeypatch.setenv("SLURM_JOB_ID", "57")
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "55")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    task = run_of(tmp_path)
    as_a_process(monkeypatch)
    monkeypatch.setattr(slurm_job, "work", lambda _: print("worked") or 75)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert task() == "interrupted"
    assert not (cluster / "scontrol.calls").exists()  # rank 0's business
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(SystemExit) as left:
        task()
    assert left.value.code == 75
    assert (cluster / "scontrol.calls").read_text() == f"requeue {'55_2' if array else '57'}\n"
    assert dataclasses.replace(task, requeue=False)() == "interrupted"
    assert (cluster / "scontrol.calls").read_text().count("\n") == 1
    folder = Path(task.path).parent
    assert [(folder / name).read_text() for name in ("log.1.txt", "log.txt")] == ["worked\n", "worked\nworked\n"]


def test_a_signal_before_the_worker_listens_is_heeded_too(cluster, monkeypatch, tmp_path):
    task = dataclasses.replace(run_of(tmp_path), requeue=False)
    before = signal.getsignal(signal.SIGUSR2)
    as_a_process(monkeypatch)

    def told_while_it_is_imported(path):
        signal.raise_signal(signal.SIGUSR2)
        with interrupt.at_once():  # where a worker begins
            return 0

    monkeypatch.setattr(slurm_job, "work", told_while_it_is_imported)
    assert task() == "interrupted"
    assert signal.getsignal(signal.SIGUSR2) is before
    assert "stopped by SIGUSR2" in (Path(task.path).parent / "log.txt").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["method=ila"], "its required run"), (["engine.device=cuda"], "no CUDA device")],
)
def test_a_job_that_cannot_begin_is_a_recorded_failure(cluster, monkeypatch, tmp_path, overrides, message):
    task = run_of(tmp_path, *overrides)
    monkeypatch.setattr("layerfit.launch.preflight.has_cuda", lambda: False)
    as_a_process(monkeypatch)
    monkeypatch.setattr(slurm_job, "work", lambda _: pytest.fail("started"))
    with pytest.raises(slurm_job.RunFailed):
        task()
    result = record.read("results", Path(task.path).parent.name).result
    assert result.status == "failed"
    assert message in result.message


def test_a_run_that_diverged_is_no_failed_job(cluster, monkeypatch, tmp_path):
    task = run_of(tmp_path)
    as_a_process(monkeypatch)
    monkeypatch.setattr(slurm_job, "work", lambda _: 3)
    assert task() == "ok"


def test_a_worker_that_raises_is_in_its_log(cluster, monkeypatch, tmp_path):
    task = run_of(tmp_path)
    as_a_process(monkeypatch)
    monkeypatch.setattr(slurm_job, "work", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        task()
    assert "ZeroDivisionError" in (Path(task.path).parent / "log.txt").read_text()


def layerfit(folder: Path, *words: str) -> str:
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "layerfit", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tell_first_job(folder: Path, sweep: subprocess.Popen) -> Path:
    """Send SIGUSR2 to the first job that trains, as SLURM would before its end; return where submitit logs it."""
    while sweep.poll() is None:
        time.sleep(0.05)
        for metrics in folder.glob("outputs/*/metrics.jsonl"):
            if '"event": "step"' in metrics.read_text():
                made = json.loads((metrics.parent / "job.json").read_text())
                pid = made["job_id"]  # of submitit's controller, whose children are the ranks
                os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGUSR2)
                return folder / made["folder"] / f"{pid}_0_log.out"
    raise AssertionError("no job was seen to train")


@pytest.mark.slow
def test_jobs_one_of_them_stopped_and_started_again_give_the_records_of_a_local_sweep(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    words = [*SWEEP, "training.max_steps=40"]
    said = layerfit(here, *words)
    there.mkdir()
    command = [sys.executable, "-m", "layerfit", *words, "hydra/launcher=submitit_local"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=there, env=env, stdout=subprocess.PIPE, text=True) as sweep:
        log = tell_first_job(there, sweep)
        assert sweep.communicate(timeout=600)[0] == said
    assert sweep.returncode == 0
    assert log.read_text().count("Starting with") == 2
    assert results(here) == results(there)
    assert len(results(there)) == 3  # LoRA, ILA, and the ranking that came before it
    made = record.read(there / "results", next(iter(results(there)))).measured.manifest
    assert "hydra/launcher=submitit_local" in made["command"]
    assert str(tmp_path) not in json.dumps(made)


@pytest.mark.slow
def test_two_ranks_of_a_job_give_the_record_of_two_ranks_here(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    run = ["method=lora", "training.max_steps=2", "training.batch_size=8", "eval.limit=20"]
    layerfit(here, *run, "engine.ranks=2")
    layerfit(there, *run, "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2")
    assert results(here) == results(there)
    assert [path.name for path in there.glob("outputs/*/log.1.txt")] == ["log.1.txt"]
