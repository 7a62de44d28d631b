"""A checkpoint is used if it is, bit by bit, what was written for this run; else it is set aside, and said so."""

import json
import random
import shutil
from types import SimpleNamespace

import pytest
import torch

from layerfit import config
from layerfit.launch.queue import Queued
from layerfit.records import record
from layerfit.run import checkpoint, loop, resume, worker
from layerfit.run.checkpoint import Unusable
from layerfit.run.track import NoTracker

RUN = ["method=lisa", "engine=torch", "eval=none", "training.max_steps=6", "training.batch_size=4"]
RUN += ["training.checkpoint_every=2", "method.switch_every=3"]
CONTENT = {"run_id": "id", "weights": {"a": torch.arange(1000.0), "b": torch.ones(3, dtype=torch.bfloat16)}}


def queued(folder, *words):
    paths = [f"paths.{kind}={folder / kind}" for kind in ("outputs", "results")]
    with config.composer():
        run = config.compose([*RUN, *words, *paths])
    return Queued(run, config.run_id(run))


def execute(folder, *words):
    """The result of a run, executed in this process in a folder."""
    item = queued(folder, *words)
    worker.work(item.write())
    return record.read(item.run.paths.results, item.run_id).result


class _KilledError(RuntimeError):
    pass


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A folder of a run that was killed in its sixth step, and the result of one that was not."""
    folder = tmp_path_factory.mktemp("checkpoints")
    straight = execute(folder / "straight")
    assert straight.status == "ok"
    rate = loop.learning_rate

    def killed(optim, step, num_steps):
        if step == 5:
            raise _KilledError
        return rate(optim, step, num_steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learning_rate", killed)
        assert execute(folder / "cut").status == "failed"
    return folder / "cut", straight


def file_of(folder):
    return next((folder / "outputs").glob(f"*/{resume.NAME}"))


def flipped(data: bytes, rng: random.Random) -> bytes:
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def test_no_bit_of_a_checkpoint_can_flip_unnoticed(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, CONTENT)
    whole, rng = path.read_bytes(), random.Random(0)
    assert torch.equal(checkpoint.load(path)["weights"]["a"], CONTENT["weights"]["a"])
    for _ in range(300):
        path.write_bytes(flipped(whole, rng))
        with pytest.raises(Unusable):
            checkpoint.load(path)


def test_no_length_but_its_own_is_read(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, CONTENT)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 39, 40, 41, len(whole) // 2, len(whole) - 40, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Unusable, match="empty" if length == 0 else "cut short"):
            checkpoint.load(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(Unusable):
        checkpoint.load(path)
    path.unlink()
    assert checkpoint.load(path) is None


def old_format(path):
    torch.save({"format": 2, "history": {}}, path)


def another_pickle(path):
    torch.save([1, 2, 3], path)


def folder_there(path):
    path.unlink()
    path.mkdir()


def rewritten(change):
    """A fault that has a true digest: what another version would write."""

    def plant(path):
        content = checkpoint.load(path)
        change(content)
        checkpoint.save(path, content)

    return plant


def first(content):
    return next(iter(content["engine"]["weights"]))


FAULTS = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "one bit": lambda path: path.write_bytes(flipped(path.read_bytes(), random.Random(3))),
    "an older version's": old_format,
    "another pickle": another_pickle,
    "text": lambda path: path.write_text("no checkpoint at all, but a note of some length"),
    "a folder": folder_there,
    "another format": rewritten(lambda c: c.update(format=2)),
    "another run's": rewritten(lambda c: c.update(run_id="0123456789")),
    "a part too few": rewritten(lambda c: c.pop("norms")),
    "another history": rewritten(lambda c: c["history"].pop("tokens")),
    "another method's state": rewritten(lambda c: c.update(method={"kind": "Importance", "scores": [0.0]})),
    "norms": rewritten(lambda c: c.update(norms={"sums": {}, "count": 1})),
    "a weight too few": rewritten(lambda c: c["engine"]["weights"].pop(first(c))),
    "another shape": rewritten(lambda c: c["engine"]["weights"].update({first(c): torch.zeros(3, 3)})),
    "other moments": rewritten(
        lambda c: next(iter(c["engine"]["states"].values())).update({"exp_avg": torch.zeros(3, 3)})
    ),
}
SLOW = [name for name in FAULTS if name not in ("one bit", "another run's", "a folder", "another shape")]


@pytest.mark.parametrize("fault", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW), id=n) for n in FAULTS])
def test_what_cannot_be_used_is_set_aside_and_the_run_starts_anew(fault, cut, tmp_path, capsys):
    folder, straight = cut
    shutil.copytree(folder, tmp_path / "run")
    path = file_of(tmp_path / "run")
    FAULTS[fault](path)
    planted = None if path.is_dir() else path.read_bytes()
    assert execute(tmp_path / "run") == straight
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot be used" in line]
    (kept,) = path.parent.glob("checkpoint.*.broken")
    assert planted is None or kept.read_bytes() == planted
    assert len(said) == 1
    assert said[0].startswith(f"layerfit: {path} cannot be used: ")
    assert said[0].endswith(f"kept as {kept.name}, the run starts anew")
    events = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    assert [f"layerfit: {e['text']}" for e in events if e["event"] == "note"] == said  # for the display of the sweep


def test_a_good_one_is_used(cut, tmp_path, capsys, monkeypatch):
    folder, straight = cut
    shutil.copytree(folder, tmp_path / "run")
    taken = []
    rate = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda *args: taken.append(args[1]) or rate(*args))
    assert execute(tmp_path / "run") == straight
    assert taken == [4, 5]
    assert "cannot be used" not in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_costs_nothing_but_itself(cut, tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    assert execute(tmp_path) == cut[1]
    said = [line for line in capsys.readouterr().err.splitlines() if "no checkpoint after step" in line]
    assert [line.split(": ")[1] for line in said] == [f"no checkpoint after step {n}" for n in (2, 4, 6)]
    assert all("the disk is full (ENOSPC)" in line and line.endswith("the run goes on without it") for line in said)


def test_what_was_half_written_is_removed_and_the_cause_is_named(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, CONTENT)
    before = path.read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint._Hashing, "write", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("own", [True, False], ids=["my own is broken", "that of another rank is"])
def test_ranks_decide_alike(own, tmp_path, monkeypatch, capsys):
    """What one rank cannot use no rank uses, and a good one is not used on some ranks alone."""
    path = tmp_path / resume.NAME
    checkpoint.save(path, {})
    if own:
        path.write_bytes(b"")
    monkeypatch.setattr(resume, "_check", lambda *_: None)
    asked = []
    engine = SimpleNamespace(any=lambda flag: asked.append(flag) or True)  # nothing else of it may be asked
    attempt = SimpleNamespace(folder=tmp_path, run=None, tracker=NoTracker())
    resume.resume(resume.Training(attempt, None, engine, None))
    assert asked == [own]
    assert not path.exists()
    said = capsys.readouterr().err
    assert ("it is empty" if own else "another rank cannot use it") in said
