"""A disk that is full, read-only or not there fails the runs that need it, in one line each; the others go on."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from layerfit import cli, config
from layerfit.launch import local
from layerfit.launch.queue import Queued
from layerfit.records import record
from tests.helpers.cluster_fakes import SWEEP as CLUSTER_SWEEP
from tests.helpers.cluster_fakes import cluster
from tests.helpers.small_runs import SMALL, layerfit, results
from tests.helpers.stubs import Stub, composed, stubs

__all__ = ["cluster", "stubs"]

SWEEP = ["-m", "method=full,lora,lisa", *SMALL]


def ids(*methods: str) -> list[str]:
    return [config.run_id(composed(f"method={method}", *SMALL)) for method in methods]


def refusing(monkeypatch, place: str, number: int) -> None:
    """Whatever is written below a path that holds `place` is refused as the system would."""
    import tempfile

    make = tempfile.mkstemp

    def refuse(*args, dir=None, prefix="", **rest):
        if place in f"{dir}/{prefix}":
            raise OSError(number, os.strerror(number), f"{dir}/{prefix}")
        return make(*args, dir=dir, prefix=prefix, **rest)

    monkeypatch.setattr(tempfile, "mkstemp", refuse)


WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota of this disk is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission",
    errno.ENOTDIR: "a file stands where a folder should be",
    errno.EIO: "the disk reports an error",
}


@pytest.mark.parametrize("number", WORDS)
def test_a_run_that_cannot_be_written_fails_alone(stubs, monkeypatch, capsys, number):
    full, lora, lisa = ids("full", "lora", "lisa")
    refusing(monkeypatch, f"outputs/{lora}", number)
    assert cli.main(SWEEP) == 1
    said = capsys.readouterr()
    assert f"layerfit: lora s0 ({lora}): outputs/{lora}/run.json: {WORDS[number]}" in said.err
    assert sorted(results(stubs)) == sorted([full, lisa])
    assert "lora         no record" in said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_record_that_cannot_be_written_fails_its_run_alone(stubs, monkeypatch, capsys, number):
    full, lora, lisa = ids("full", "lora", "lisa")
    refusing(monkeypatch, f"runs/.{lora}", number)
    assert cli.main(SWEEP) == 1
    said = capsys.readouterr().err
    assert f"layerfit: lora s0 ({lora}): results/runs/{lora}.json: {WORDS[number]}" in said
    assert said.count("layerfit: ") == 1
    assert sorted(results(stubs)) == sorted([full, lisa])


def test_a_record_that_cannot_be_read_fails_its_run_alone(stubs, monkeypatch, capsys):
    full, lora, lisa = ids("full", "lora", "lisa")
    assert cli.main(["method=lora", *SMALL]) == 0
    read = Path.read_bytes

    def refuse(path, *args, **rest):
        if path.name == f"{lora}.json":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path, *args, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        assert cli.main(SWEEP) == 1
    said = capsys.readouterr()
    assert f"layerfit: lora s0 ({lora}): results/runs/{lora}.json: the disk reports an error (EIO)" in said.err
    assert f"{lora}  lora         unreadable: results/runs/{lora}.json: the disk reports" in said.out
    assert sorted(results(stubs)) == sorted([full, lora, lisa])  # what was there is untouched


def test_what_needs_a_run_that_failed_so_is_not_begun(stubs, monkeypatch, capsys):
    run = composed("method=ila", *SMALL)
    (ranking,) = (config.run_id(one) for one in config.required_runs(run))
    refusing(monkeypatch, f"outputs/{ranking}", errno.ENOSPC)
    assert cli.main(["method=ila", *SMALL]) == 1
    found = record.read("results", config.run_id(run)).result
    assert (found.status, found.message) == ("failed", f"its required run {ranking} is not ok")


def test_a_job_whose_failure_cannot_be_recorded_fails_alone(cluster, monkeypatch, capsys):
    """The queue is empty: all jobs are over and have left no record; one of them cannot be given one."""
    lora = config.run_id(composed("method=lora", *CLUSTER_SWEEP[2:]))
    refusing(monkeypatch, f"runs/.{lora}", errno.ENOSPC)
    assert cli.main([*CLUSTER_SWEEP, "hydra/launcher=slurm"]) == 1
    said = capsys.readouterr().err
    assert f"layerfit: lora s0 ({lora}): results/runs/{lora}.json: the disk is full (ENOSPC)" in said
    assert said.count("failed") == 3
    assert len(results(Path())) == 2


def test_jobs_without_a_folder_are_not_submitted(cluster, capsys):
    Path("outputs").mkdir()
    Path("outputs/slurm").write_text("mine")
    assert cli.main([*CLUSTER_SWEEP, "hydra/launcher=slurm"]) == 2
    assert "outputs/slurm: a file stands where a folder should be" in capsys.readouterr().err
    assert not list(cluster.glob("*.sh"))


def test_a_server_that_starts_nothing_fails_runs_with_one_line(stubs, monkeypatch, capsys):
    def refuse(*_):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(local, "start", refuse)
    assert cli.main(["method=full", *SMALL]) == 1
    assert "the system starts no more processes (EAGAIN); raise `ulimit -u`" in capsys.readouterr().err


def as_file(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")


def as_link(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("place", "made", "said"),
    [
        ("results", as_file, "results is a file"),
        ("results/runs", as_file, "results/runs is a file"),
        ("results/rankings", as_file, "results/rankings is a file"),
        ("outputs", as_file, "outputs is a file"),
        ("results", as_link, "results is a link to nowhere, which is not there"),
        ("results/runs", as_link, "results/runs is a link to nowhere"),
        ("outputs", as_link, "outputs is a link to nowhere"),
    ],
)
def test_folders_that_cannot_be_are_met_before_anything_starts(stubs, capsys, place, made, said):
    made(stubs / place)
    before = sorted(stubs.rglob("*"))
    assert cli.main(["method=full", *SMALL]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "give another folder" in err
    assert err.count("\n") == 1
    assert sorted(stubs.rglob("*")) == before


def test_a_final_record_is_not_overwritten_by_a_failure(stubs):
    """An ok run is begun again for its weights: that what it needs has failed since does not make it failed."""
    run = composed("method=full", *SMALL, "save.weights=final")
    queued = Queued(run, config.run_id(run), (), config.identity_of(run))
    Stub(queued).exit_code()
    assert not queued.is_done()
    queued.record_failure("its required run is not ok")
    assert queued.status() == "ok"


@contextlib.contextmanager
def disk(folder: Path, size: str = "1m", *options: str):
    """A small disk of memory at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "none", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a disk but for some bytes."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(path, path.stat().st_size - leave)
    return path


@contextlib.contextmanager
def beside(commands: str):
    """Inside, another program runs these commands of a shell; it and what it started are ended whatever happens."""
    other = subprocess.Popen(["sh", "-c", commands], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(other.pid, signal.SIGKILL)
        other.wait()


def test_a_disk_that_is_full_or_read_only_from_the_start_is_met_before(stubs, capsys):
    with disk(stubs / "results") as results_disk:
        fill(results_disk, leave=8192)
        assert cli.main(["method=full", *SMALL]) == 2
        said = capsys.readouterr().err
        assert "paths.results=results: a run needs about 256.0 KiB for its record, 8.0 KiB are free" in said
    with disk(stubs / "outputs", "1m", "ro"):
        assert cli.main(["method=full", *SMALL]) == 2
        assert f"paths.outputs=outputs: {stubs / 'outputs'} is on a read-only disk" in capsys.readouterr().err


@pytest.mark.slow
def test_results_full_in_the_middle(tmp_path):
    """The records that fit stay; what did not was trained, is in its checkpoint, and is not trained again."""
    with disk(tmp_path / "results") as results_disk:
        (results_disk / "runs").mkdir()
        filler = fill(results_disk, leave=300 * 1024)
        # A journal of another program fills the rest once the sweep has begun.
        words = f"while [ ! -e {tmp_path}/outputs/*/metrics.jsonl ]; do sleep 0.1; done; cat /dev/zero > {filler}.more"
        with beside(words):
            done = layerfit(tmp_path, "method=full", *SMALL)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("layerfit: ")]
        assert "results/runs/" in said
        assert "the disk is full (ENOSPC); free some space there" in said
        assert results(tmp_path) == {}
        assert [path for path in (results_disk / "runs").iterdir() if path.stat().st_size] == []
        for path in results_disk.glob("filler*"):
            path.unlink()
        assert layerfit(tmp_path, "method=full", *SMALL).returncode == 0
        again = results(tmp_path)
    (metrics,) = tmp_path.glob("outputs/*/metrics.jsonl")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"step"' in line]
    assert steps == [1, 2, 3]
    straight = tmp_path / "straight"
    assert layerfit(straight, "method=full", *SMALL).returncode == 0
    assert again == results(straight)


@pytest.mark.slow
def test_outputs_full_in_the_middle(tmp_path):
    """Neither checkpoints nor metrics fit any more: the run goes on to the same record, which needs none of them."""
    words = ("method=full", "model=nano", *SMALL, "training.max_steps=30")
    with disk(tmp_path / "outputs", "40m") as outputs_disk:
        begun = f"while [ ! -e {outputs_disk}/*/metrics.jsonl ]; do sleep 0.1; done"
        # Again and again: it may meet a full disk while a checkpoint is written beside the one that it replaces.
        filling = f"while :; do cat /dev/zero >> {outputs_disk}/filler; sleep 0.02; done"
        with beside(f"{begun}; {filling}"):
            done = layerfit(tmp_path, *words)
            assert shutil.disk_usage(outputs_disk).free < 64 * 1024
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    straight = tmp_path / "straight"
    assert layerfit(straight, *words).returncode == 0
    assert results(tmp_path) == results(straight)


def test_watching_does_not_stop_at_what_it_cannot_read(stubs, monkeypatch, capsys):
    """A disk that is gone under the display costs no run."""
    (lora,) = ids("lora")
    Path("outputs", lora).mkdir(parents=True)
    Path("outputs", lora, "metrics.jsonl").symlink_to("metrics.jsonl")  # a circle: every look is refused
    assert cli.main(["method=lora", *SMALL]) == 0


def test_looking_up_clears_what_killed_writers_left_in_results(stubs):
    for kind in ("runs", "rankings", "judgments", "answers"):
        Path("results", kind).mkdir(parents=True)
        path = Path("results", kind, ".a.json.0123abcd-1.abcdefgh.part")
        path.write_text("half")
        os.utime(path, (0, 0))
    assert cli.main(["method=full", *SMALL]) == 0
    assert list(Path("results").rglob(".*")) == []
