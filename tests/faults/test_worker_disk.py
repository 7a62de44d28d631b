"""A disk that is full or read-only costs no more than what could not be written, and says in one line what that was."""

import errno
import io
from contextlib import suppress
from pathlib import Path

import pytest

from layerfit import config
from layerfit.files.os_errors import os_error_line
from layerfit.launch.queue import Queued
from layerfit.records import record
from layerfit.run import worker
from layerfit.run.failures import describe_error, say
from layerfit.run.track import JsonLines

FULL, LOCKED = OSError(errno.ENOSPC, "", "the/file"), OSError(errno.EROFS, "", "the/file")


def queued(folder, *words):
    paths = [f"paths.{kind}={folder / kind}" for kind in ("outputs", "results")]
    words = ["engine=torch", "method=lora", "eval=none", "training.batch_size=4", "training.max_steps=2", *words]
    with config.composer():
        run = config.compose([*words, *paths])
    return Queued(run, config.run_id(run))


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize("error", [FULL, LOCKED], ids=["full", "read-only"])
def test_a_record_that_results_cannot_take_is_kept_and_it_is_said_where(tmp_path, monkeypatch, capsys, error):
    item, write = queued(tmp_path), record.write
    results = Path(item.run.paths.results)

    def partly(kept, items, where):
        return failing(error)() if Path(where) == results else write(kept, items, where)

    monkeypatch.setattr(record, "write", partly)
    assert worker.work(item.write()) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("layerfit:")]
    folder = Path(item.run.paths.outputs) / item.run_id / worker.ASIDE
    path = record.record_path(folder, item.run_id)
    assert said == [
        f"layerfit: no record could be written: {os_error_line(error)}; the record (status ok) is in {path}"
    ]
    assert record.read(folder, item.run_id).result.status == "ok"
    monkeypatch.setattr(record, "write", write)  # there is space again: the same command ends it, from its checkpoint
    assert worker.work(item.write()) == 0
    assert record.read(results, item.run_id).result == record.read(folder, item.run_id).result


def test_where_nothing_can_be_written_one_line_says_so(tmp_path, monkeypatch, capsys):
    item = queued(tmp_path)
    monkeypatch.setattr(record, "write", failing(FULL))
    monkeypatch.setattr("layerfit.run.checkpoint.save", failing(FULL))
    assert worker.work(item.write()) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert f"no record could be written: {os_error_line(FULL)}; nor could one in" in err


def test_a_traceback_that_cannot_be_kept_does_not_hide_the_cause(tmp_path, monkeypatch, capsys):
    item = queued(tmp_path)
    monkeypatch.setattr(worker, "execute", failing(ZeroDivisionError("the cause")))
    path = item.write()
    (path.parent / "error.txt").mkdir()
    assert worker.work(path) == 1
    assert record.read(item.run.paths.results, item.run_id).result.message == "ZeroDivisionError: the cause"
    assert "layerfit: ZeroDivisionError: the cause" in capsys.readouterr().err.splitlines()


def test_metrics_that_cannot_be_written_are_left_and_said_once(tmp_path, capsys):
    class FullFile(io.StringIO):
        def write(self, _):
            raise FULL

        def close(self):
            raise FULL

    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.log(1, {"loss": 1.0})
    lines.file.close()
    lines.file = FullFile()
    for step in (2, 3):
        lines.log(step, {"loss": 1.0})
    lines.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    again = JsonLines(tmp_path / "no folder" / "metrics.jsonl")
    again.log(1, {"loss": 1.0})
    again.close()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0] == f"layerfit: metrics.jsonl ends here: {os_error_line(FULL)}; the run goes on"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_that_is_full_ends_no_run():
    with suppress(OSError), Path("/dev/full").open("w") as full:
        say("a line", full)
    lines = JsonLines(Path("/dev/full"))
    for step in range(3):
        lines.log(step, {"loss": 1.0})
    lines.close()


def test_an_error_of_the_system_is_one_line_with_its_path():
    assert describe_error(OSError(errno.ENOSPC, "x", "a/b")) == os_error_line(OSError(errno.ENOSPC, "x", "a/b"))
    assert (
        describe_error(OSError(errno.EROFS, "x"))
        == "the disk is read-only (EROFS); give a folder that can be written to"
    )
    assert describe_error(ValueError("one\ntwo")) == "ValueError: one"
    assert describe_error(ValueError()) == "ValueError"
