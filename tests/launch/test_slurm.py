"""Runs as SLURM jobs: what reaches sbatch, what is not submitted twice, what a mistake says."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from layerfit import cli, config
from layerfit.config.launcher import LauncherConfig
from layerfit.launch import slurm, slurm_queue
from layerfit.records import record
from layerfit.report.__main__ import main as report
from tests.helpers.cluster_fakes import SWEEP, cluster
from tests.helpers.report_fakes import new_project

__all__ = ["cluster"]


def on_slurm(*words: str) -> list[str]:
    return ["hydra/launcher=slurm", "hydra.launcher.wait=false", *(f"hydra.launcher.{word}" for word in words)]


def options(script: Path) -> dict[str, str]:
    """The #SBATCH lines of a submission, by name."""
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script.read_text(), re.MULTILINE)
    return {name: value.strip("'") for name, value in found}


def all_pending(folder: Path) -> None:
    """Let the queue hold every job of this folder, as squeue would list it."""
    ids = [json.loads(path.read_text())["job_id"] for path in Path("outputs").glob("*/job.json")]
    (folder / "queue").write_text("".join(f"{job_id}|PENDING\n" for job_id in ids))


def test_a_sweep_is_one_array_and_a_second_that_waits_for_what_it_needs(cluster, capsys):
    asked = on_slurm("nodes=2", "gpus_per_node=4", "time=1-02:00:00", "mem=64GB", "partition=big", "max_parallel=1")
    asked += on_slurm("signal_before_end_s=300", "setup=[module load cuda]", "extra.exclude=node7")
    assert cli.main([*SWEEP, *asked]) == 0, capsys.readouterr().err
    first, second = options(cluster / "101.sh"), options(cluster / "102.sh")
    assert not (cluster / "103.sh").exists()
    said = {key: first[key] for key in ("array", "nodes", "ntasks-per-node", "gpus-per-node", "time", "mem")}
    # LoRA and the ranking that ILA needs can start, one at a time; 1-02:00:00 is 26 hours.
    assert said == {"array": "0-1%1", "nodes": "2", "ntasks-per-node": "4", "gpus-per-node": "4", "time": "1560",
                    "mem": "64GB"}  # fmt: skip
    assert first["signal"] == "USR2@300"
    assert (first["partition"], first["exclude"], first["requeue"]) == ("big", "node7", "")
    assert "\nmodule load cuda\n" in (cluster / "101.sh").read_text()
    jobs = {path.parent.name: json.loads(path.read_text()) for path in Path("outputs").glob("*/job.json")}
    runs = {i: json.loads((Path("outputs") / i / "run.json").read_text()) for i in jobs}
    by_method = {runs[i]["method_name"]: job["job_id"] for i, job in jobs.items()}
    assert by_method == {"lora": "101_0", "ila_ranking": "101_1", "ila": "102"}
    assert "dependency" not in first
    assert second["dependency"] == "afterany:101_1"
    assert {run["engine"]["ranks"] for run in runs.values()} == {8}
    assert {run["engine"]["device"] for run in runs.values()} == {"cuda"}  # a node without its GPUs must not train
    with config.composer():
        ids = {config.run_id(config.compose([f"method={m}", *SWEEP[2:]])) for m in ("lora", "ila")}
    assert ids < set(jobs)  # where it runs does not name a run
    out = capsys.readouterr().out
    assert "101_0" in out
    assert "log.txt" in out


def test_the_same_command_again_submits_nothing_that_still_waits(cluster, capsys):
    assert cli.main([*SWEEP, *on_slurm()]) == 0
    all_pending(cluster)
    assert cli.main([*SWEEP, *on_slurm()]) == 0
    assert not (cluster / "103.sh").exists()
    assert "3 runs have their job already: 101 102" in capsys.readouterr().err
    # The ILA run's job is gone and left no record: it alone is submitted, behind the ranking that still waits.
    (cluster / "queue").write_text("101_0|RUNNING\n101_1|COMPLETING\n")
    assert cli.main([*SWEEP, *on_slurm()]) == 0
    assert options(cluster / "103.sh")["dependency"] == "afterany:101_1"
    (cluster / "down").touch()
    assert cli.main([*SWEEP, *on_slurm()]) == 2
    assert "squeue does not answer" in capsys.readouterr().err
    assert not (cluster / "104.sh").exists()


def test_waiting_ends_with_the_jobs_and_records_what_they_did_not(cluster, capsys):
    asked = [*SWEEP, "hydra/launcher=slurm"]
    assert cli.main(asked) == 1  # the queue is empty: all are over, without a record
    found = {path.stem: record.read("results", path.stem) for path in Path("results/runs").glob("*.json")}
    assert {r.result.status for r in found.values()} == {"failed"}
    assert all("ended without a record; see outputs/slurm/10" in r.result.message for r in found.values())
    captured = capsys.readouterr()
    assert captured.err.count("failed") == 3
    assert len(captured.out.splitlines()) == 2  # a summary of each run that was asked for, as of a local sweep


def test_who_stops_waiting_leaves_the_jobs(cluster, capsys, monkeypatch):
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "look", leave)
    assert cli.main([*SWEEP, "hydra/launcher=slurm"]) == 130
    assert "3 jobs go on without you: 101 102" in capsys.readouterr().err
    assert not list(Path("results").glob("runs/*"))


def test_states_are_squeues(cluster):
    rows = "7|PENDING\n8_0|RUNNING\n8_1|COMPLETING\n9|REQUEUE_HOLD\n10|SUSPENDED\n"
    (cluster / "queue").write_text(rows)
    jobs = [slurm_queue.Job("slurm", i, "f") for i in ("7", "8_0", "8_1", "8_2", "9")]
    assert slurm_queue.states(jobs) == {"7": "pending", "8_0": "running", "8_1": "running", "9": "pending"}
    assert "--array" in (cluster / "squeue.calls").read_text()
    mine = slurm_queue.Job("submitit_local", str(os.getpid()), "nowhere")  # its number, but another process
    assert slurm_queue.states([mine]) == {}


MINUTES = {"90": 90, "0:90": 2, "10:00": 10, "12:00:00": 720, "1-0": 1440, "2-03:04": 3064, "1-02:03:04": 1564}
"""sbatch(1), --time: minutes, min:sec, hours:min:sec, days-hours, days-hours:min, days-hours:min:sec."""


@pytest.mark.parametrize("text", MINUTES)
def test_times_are_slurms(text):
    assert LauncherConfig("slurm", time=text, signal_before_end_s=1).minutes() == MINUTES[text]


BAD = {
    "unknown launcher": ("hydra/launcher=slrum", "local, slurm, submitit_local"),
    "Hydra's own launcher": ("hydra/launcher=basic", "local, slurm, submitit_local"),
    "unknown key": ("hydra/launcher=slurm hydra.launcher.nod=2", "nod"),
    "wrong type": ("hydra/launcher=slurm hydra.launcher.nodes=many", "Integer"),
    "several": ("-m hydra/launcher=slurm hydra.launcher.nodes=1,2", "one launcher"),
    "several launchers": ("-m hydra/launcher=slurm,local", "one launcher"),
    "keys of no launcher": ("hydra.launcher.nodes=2", "add hydra/launcher=slurm"),
    "a name of its own": ("hydra/launcher=slurm hydra.launcher.name=local", "choose one"),
    "taken away": ("~hydra/launcher", "choose one"),
    "no nodes": ("hydra/launcher=slurm hydra.launcher.nodes=0", "[1, 65,536]"),
    "no time": ("hydra/launcher=slurm hydra.launcher.time=soon", "D-HH:MM:SS"),
    "signal after the end": ("hydra/launcher=slurm hydra.launcher.time=2", "not before the end"),
    "no size": ("hydra/launcher=slurm hydra.launcher.mem=much", "64GB"),
    "batch does not divide": ("hydra/launcher=slurm hydra.launcher.gpus_per_node=6", "not a multiple of"),
    "two words on ranks": ("hydra/launcher=slurm hydra.launcher.gpus_per_node=4 engine.ranks=2", "drop engine.ranks"),
    "a reference on GPUs": ("hydra/launcher=slurm hydra.launcher.gpus_per_node=4 engine=torch", "engine=zero0"),
    "no GPU asked": ("hydra/launcher=slurm hydra.launcher.gpus_per_node=0 engine.device=cuda", "gpus_per_node=0"),
    "ranks without GPU": ("hydra/launcher=slurm hydra.launcher.tasks_per_node=2", "need a GPU each"),
    "two nodes of one machine": ("hydra/launcher=submitit_local hydra.launcher.nodes=2", "one machine"),
    "nobody stays": ("hydra/launcher=submitit_local hydra.launcher.wait=false", "wait=true"),
    "a mistake in a run": ("hydra/launcher=slurm dataset=local dataset.path=nowhere.jsonl", "nowhere.jsonl"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_and_submits_nothing(case, cluster, capsys):
    words, expected = BAD[case]
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("layerfit: ")
    assert error.count("\n") == 1
    assert expected in error
    assert not (cluster / "101.sh").exists()


def test_what_sbatch_refuses_is_said_in_one_line(cluster, capfd):
    (cluster / "refuse").write_text("sbatch: error: invalid partition specified: bg\n")
    assert cli.main(["method=lora", *on_slurm("partition=bg")]) == 2
    *_, error = capfd.readouterr().err.splitlines()  # before it, perhaps, that the source tree is not clean
    assert error == "layerfit: hydra/launcher=slurm: sbatch: error: invalid partition specified: bg"
    assert not list(Path("outputs").glob("*/job.json"))


def test_what_is_not_there_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["method=lora", *on_slurm()]) == 2
    assert "sbatch, which is not on PATH" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(["method=lora", *on_slurm()]) == 2
    assert "pip install 'layerfit[slurm]'" in capsys.readouterr().err


def test_help_lists_the_launchers_that_there_are():
    choices = sorted(path.stem for path in (config.CONF / "hydra" / "launcher").glob("*.yaml"))
    assert choices == ["local", "slurm", "submitit_local"]
    assert f"hydra/launcher={'|'.join(choices)}" in cli.help_text(120)


def test_a_tables_missing_cells_are_one_array(cluster, tmp_path, monkeypatch, capsys):
    new_project(tmp_path, monkeypatch)
    asked = ["table", "tiny", "--draft", *on_slurm(), "engine.device=cpu", "paths.outputs=scratch"]
    assert report(asked) == 0
    assert options(cluster / "101.sh")["array"] == "0-2%3"  # vanilla, and LoRA with two seeds
    assert options(cluster / "101.sh")["job-name"] == "layerfit-tiny"
    assert len(list(Path("scratch").glob("*/job.json"))) == 3
    assert "make todo T=tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["optim.lr=0.1"], "optim.lr=0.1 changes the runs of the table's rows; edit conf/table/tiny.yaml or copy it"),
        (["seed=3"], "seed=3: a table sets seeds and results itself"),
        (["paths.results=x"], "paths.results=x: a table sets seeds and results itself"),
        (["method=lora"], "method=lora changes the runs"),
        (["hydra/launcher=slrum"], "local, slurm, submitit_local"),
    ],
)
def test_overrides_do_not_change_a_tables_rows(cluster, tmp_path, monkeypatch, capsys, words, expected):
    new_project(tmp_path, monkeypatch)
    assert report(["table", "tiny", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
