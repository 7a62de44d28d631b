"""Trackers watch; they never decide. What W&B was told is read back from its offline file."""

import json
import os
import struct
import time
from pathlib import Path

import pytest

from layerfit import config
from layerfit.records.record import Measured, Record, Result, Score
from layerfit.run.track import JsonLines, Several, make_tracker

BLOCK, FULL, LAST = 32768, 1, 4
pytest.importorskip("wandb", reason="W&B is an extra")


@pytest.fixture
def wandb_run():
    with config.composer():
        return config.compose(["tracker=wandb", "tracker.group=some_table", "method=lora"])


def record_of(run) -> Record:
    score = Score("nano_facts", "acc", 0.5, 0.01, 2000, 2000, 0, "1", True, "d")
    return Record(config.run_id(run), "lora", "", Result(config.identity_of(run), "ok", scores=[score]), Measured(1.0))


def offline_records(folder: Path) -> list:
    """Everything in the run's transaction log: LevelDB's log format after a file header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    [path] = (folder / "wandb").glob("offline-run-*/*.wandb")
    data, place, out, whole = path.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        if (left := BLOCK - place % BLOCK) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (FULL, LAST):
            out.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return out


def test_an_offline_run_holds_the_curve_and_the_scores(wandb_run, tmp_path):
    run_id = config.run_id(wandb_run)
    tracker = make_tracker(wandb_run, run_id, config.identity_of(wandb_run), tmp_path)
    tracker.phase("train", 2)
    for step, loss in ((1, 3.0), (2, 2.0)):
        tracker.log(step, {"loss": loss})
    tracker.finish(record_of(wandb_run))
    tracker.close()
    deadline = time.monotonic() + 60  # W&B's own process writes the file, and may do so after `finish` has returned
    found = offline_records(tmp_path)
    while not any(r.HasField("exit") for r in found) and time.monotonic() < deadline:
        time.sleep(0.2)
        found = offline_records(tmp_path)
    [run] = [r.run for r in found if r.HasField("run")][:1]
    assert (run.run_id, run.run_group, run.project) == (run_id, "some_table", "layerfit")
    history = [{i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in r.history.item} for r in found]
    assert [h["train/loss"] for h in history if "train/loss" in h] == [3.0, 2.0]
    assert [h["train/step"] for h in history if "train/loss" in h] == [1, 2]
    summary = {i.key or i.nested_key[0]: i.value_json for r in found for i in r.summary.update}
    assert json.loads(summary["eval/nano_facts/acc"]) == 0.5
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["phase", "step", "step", "finished"]


def test_the_tracker_is_no_part_of_a_run(wandb_run):
    with config.composer():
        assert config.run_id(wandb_run) == config.run_id(config.compose(["method=lora"]))


class Broken:
    def __getattr__(self, name):
        raise OSError("the disk of the mirror is full")


def test_a_mirror_that_fails_costs_nothing(tmp_path, capsys):
    tracker = Several(JsonLines(tmp_path / "m.jsonl"), Broken())
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 0.5})
    assert capsys.readouterr().out.count("dropped") == 1
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 2


def test_a_mirror_that_cannot_start_costs_nothing(wandb_run, tmp_path, monkeypatch, capsys):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("no way through")

    monkeypatch.setattr(wandb, "init", refuse)
    tracker = make_tracker(wandb_run, "id", {}, tmp_path)
    tracker.log(1, {"loss": 1.0})
    assert "no way through" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").exists()
    assert os.environ.get("WANDB_MODE") is None
