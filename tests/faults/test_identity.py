"""A run's identity is taken once, from the bytes that were read; files changed meanwhile never pass for others."""

import json
import shutil
from pathlib import Path

import pytest

from layerfit import config
from layerfit.config import from_file, identity_of, required_runs, run_id
from layerfit.errors import UserError
from layerfit.files import content
from layerfit.launch.queue import Queue, read_queued
from layerfit.models.hub import EMBEDDED
from layerfit.records.record import read_all
from layerfit.report.cells import required

ROW = {"prompt": "sign of home", "response": "left"}
NANO = EMBEDDED / "models" / "layerfit" / "nano"


@pytest.fixture(autouse=True)
def composer():
    with config.composer():
        yield


@pytest.fixture
def reads(monkeypatch):
    """Files that were read for an identity."""
    found, real = [], content._read
    monkeypatch.setattr(content, "_known", {})
    monkeypatch.setattr(content, "_read", lambda path: found.append(path.name) or real(path))
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.jsonl").write_text(f"{json.dumps(ROW)}\n" * 8)
    return tmp_path


def composed(*words: str):
    small = [
        "eval=none",
        "engine.device=cpu",
        "training.max_steps=1",
        "training.batch_size=4",
        "training.max_length=12",
    ]
    return config.compose(["model=nano", "dataset=local", "dataset.path=data.jsonl", *small, *words])


def own_model(folder: Path) -> str:
    shutil.copytree(NANO, folder)
    return f"model.path={folder}"


def test_a_folder_is_read_once_whatever_is_asked(place, reads):
    """A run by a ranking read its model 27 times."""
    run = composed("method=ila", own_model(place / "own"))
    ids = {run_id(run) for _ in range(5)}
    queue = Queue("g")
    queue.add(run)
    (before,) = required_runs(run)
    ids |= {run_id(one) for one in (*required(run), before)} | set(queue.runs)
    for queued in queue.runs.values():
        config.check_unchanged(from_file(queued.write()).run, queued.identity)
    assert len(ids) == 2
    assert sorted(reads) == sorted(set(reads))
    assert "model.safetensors" in reads


def test_a_process_is_given_the_identity_that_was_queued(place):
    queue = Queue("g")
    name = queue.add(composed("method=ila"))
    Path("data.jsonl").write_text("{}\n")
    given = read_queued(queue.runs[name].write())
    assert given == queue.runs[name]
    assert (given.identity, given.needs) == (queue.runs[name].identity, queue.runs[name].needs)
    assert run_id(given.run) != name


def test_data_changed_during_the_start_ends_the_run(place, monkeypatch):
    from layerfit.run import execution, worker

    queue, real = Queue("g"), execution.load
    name = queue.add(composed("method=full"))

    def loads_while_data_changes(*given):
        loaded = real(*given)
        Path("data.jsonl").write_text(f"{json.dumps(ROW)}\n" * 9)
        return loaded

    monkeypatch.setattr(execution, "load", loads_while_data_changes)
    path = queue.runs[name].write()
    assert worker.work(path) == 1
    (record,) = read_all("results").values()
    assert (record.run_id, record.result.status, record.result.losses) == (name, "failed", [])
    assert record.result.message == (
        "dataset.path=data.jsonl was changed while the run went on; start the same command again"
    )
    again = Queue("g")
    (other,) = {again.add(composed("method=full"))} - {name}
    assert other in again.todo()


def test_weights_changed_before_they_are_read_again_end_the_run(place, monkeypatch):
    """From sharded weights the model that is evaluated is made anew, of the files that are there then."""
    from layerfit.run import execution, worker

    queue = Queue("g")
    name = queue.add(composed("method=full", "engine=zero3", own_model(place / "own")))

    def evaluates_while_weights_change(*_):
        with (place / "own" / "model.safetensors").open("ab") as file:
            file.write(b" ")
        return [], {}

    monkeypatch.setattr(execution, "_scores", evaluates_while_weights_change)
    assert worker.work(queue.runs[name].write()) == 1
    (record,) = read_all("results").values()
    assert record.result.status == "failed"
    assert record.result.message.startswith(f"model.path={place / 'own'} was changed while the run went on")


def test_a_run_in_its_own_data_folder_keeps_its_id(place):
    run = composed("dataset.path=.", "method=full")
    before = run_id(run)
    for name in ("outputs/x/metrics.jsonl", "results/runs/x.json", "NOTES.txt", ".cache/x.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    assert run_id(run) == before
    Path("data.jsonl").write_text("{}\n")
    assert run_id(run) != before


def test_the_home_folder_is_no_other_model(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    words = own_model(place / "own")
    assert run_id(composed("model.path='~/own'")) == run_id(composed(words))
    assert run_id(composed("dataset.path='~/data.jsonl'")) == run_id(composed())


JUDGED = ["model=nano", "eval=mt_bench", "eval.judge.data=x"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["dataset=local", "dataset.path=none.jsonl"], "dataset.path=none.jsonl does not exist"),
        (["model.path=none"], "model.path=none is not a folder"),
        (["model.path=data.jsonl"], "model.path=data.jsonl is not a folder"),
        (["method=ila", "method.ranking=none.json"], "method.ranking=none.json does not exist"),
        ([*JUDGED, "eval.judge.model_path=./no/such/folder"], "is neither a folder nor a hub id"),
    ],
)
def test_a_path_of_nothing_is_no_identity(place, words, text):
    run = config.compose(["model=nano", *words])
    with pytest.raises(UserError, match=text):
        identity_of(run)


def test_words_that_are_no_paths_stay(place):
    Path("auto").write_text("{}")
    assert identity_of(config.compose(["model=nano", "method=ila"]))["method"]["ranking"] == "auto"
    judge = config.compose([*JUDGED, "eval.judge.model_path=org/name"])
    assert identity_of(judge)["eval"]["judge"]["model_path"] == "org/name"
