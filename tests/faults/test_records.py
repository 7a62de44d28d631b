"""A record that is broken, another run's, or contradicts itself is never believed: it is set aside and run again."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from layerfit import config
from layerfit.config import composer
from layerfit.errors import UserError
from layerfit.launch.queue import Queue
from layerfit.records.record import SCHEMA, Broken, read, read_all, record_path, write
from layerfit.report import __main__ as report
from layerfit.report import checks
from layerfit.report.runs import main as runs
from tests.helpers.report_fakes import KEYS, new_project, record

ITEMS = {KEYS[0]: [1.0, 0.0, 1.0, 1.0]}


@pytest.fixture(scope="module")
def run():
    with composer():
        return config.compose(["method=lora", "model=nano", "eval=nano"])


@pytest.fixture
def written(run, tmp_path, monkeypatch):
    """The record of a run, and the run's id."""
    monkeypatch.chdir(tmp_path)
    made = record(run, ITEMS)
    return write(made, ITEMS, "results"), made.run_id


def queue_of(run):
    queue = Queue("g")
    queue.add(run)
    return queue


def changed(path: Path, **changes):
    """Change fields of a record: `result__status="x"`."""
    data = json.loads(path.read_text())
    for key, value in changes.items():
        at, *names = [data, *key.split("__")]
        for name in names[:-1]:
            at = at[int(name) if isinstance(at, list) else name]
        at[names[-1]] = value
    path.write_text(json.dumps(data))


def items_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.items.json.gz")


def repacked(path: Path, text: str):
    items_of(path).write_bytes(gzip.compress(text.encode()))


def instead(make):
    """Put something else in a record's place."""

    def fault(path: Path):
        path.unlink()
        make(path)

    return fault


def cut(path: Path):
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])


FAULTS = {
    "empty": (lambda p: p.write_text(""), "Expecting value"),
    "cut": (cut, "not a record"),
    "a list": (lambda p: p.write_text("[]"), r"it is \[\], not an object"),
    "null": (lambda p: p.write_text("null"), "it is null, not an object"),
    "text of another code": (lambda p: p.write_bytes(b"\xff\xfe{}"), "utf-8"),
    "deep": (lambda p: p.write_text("[" * 100_000), "nested too deeply"),
    "a key twice": (lambda p: p.write_text('{"schema": 2, "schema": 2}'), "'schema' stands twice"),
    "a folder": (instead(Path.mkdir), "not a regular file"),
    "a pipe": (instead(os.mkfifo), "not a regular file"),
    "no schema": (lambda p: changed(p, schema=None), "schema None"),
    "schema true": (lambda p: changed(p, schema=True), "schema True"),
    "another name": (lambda p: changed(p, run_id="0123456789"), "it is of run 0123456789"),
    "another configuration": (lambda p: changed(p, result__config__seed=7), "its configuration is that of run"),
    "status": (lambda p: changed(p, result__status="fine"), "status 'fine'"),
    "score NaN": (lambda p: changed(p, result__scores__0__value=float("nan")), "NaN, which is not a finite number"),
    "loss beyond floats": (lambda p: changed(p, result__losses=[10**400]), "beyond any float|digits"),
    "score text": (lambda p: changed(p, result__scores__0__value="0.75"), r'scores\[0\].value is "0.75", not a number'),
    "score true": (lambda p: changed(p, result__scores__0__value=True), "is true, not a number"),
    "score null": (lambda p: changed(p, result__scores__0__value=None), "is null, not a number"),
    "of other items": (lambda p: changed(p, result__scores__0__value=0.9), "is 0.9 and the mean of its items"),
    "score just off": (lambda p: changed(p, result__scores__0__value=0.75001), "the mean of its items"),
    "number of items": (lambda p: changed(p, result__scores__0__num_items=5), "is of 5 items and there are 4"),
    "losses text": (lambda p: changed(p, result__losses="abc"), 'losses is "abc", not a list'),
    "a plan": (lambda p: changed(p, result__plans=[[0]]), r"plans\[0\] is \[0\], not a list of 2"),
    "memory a list": (lambda p: changed(p, measured__peak_memory_bytes=[]), r"_bytes is \[\], not an object"),
    "a field of nobody": (lambda p: changed(p, colour=1), "colour is a field of nobody"),
    "no items": (lambda p: items_of(p).unlink(), "its items are missing"),
    "items cut": (lambda p: cut(items_of(p)), r"its items \(.*\) cannot be read"),
    "items no gzip": (lambda p: items_of(p).write_text("{}"), "its items"),
    "items NaN": (lambda p: repacked(p, '{"nano_facts/acc":[NaN,0,1,1]}'), "its items"),
    "items of another score": (lambda p: repacked(p, '{"x/acc":[1,0,1,1]}'), "its items are of x/acc"),
    "other items": (lambda p: repacked(p, '{"nano_facts/acc":[1,0,0,1]}'), "the mean of its items 0.5"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_record_is_set_aside_and_its_run_runs_again(run, written, capsys, fault):
    (path, name), (plant, words) = written, FAULTS[fault]
    assert queue_of(run).todo() == {}
    plant(path)
    with pytest.raises(Broken, match=words) as error:
        read("results", name)
    with pytest.raises(UserError):
        read_all("results")
    assert "\n" not in str(error.value)
    Path("outputs", name).mkdir(parents=True)
    assert list(queue_of(run).todo()) == [name]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{name}.json: not a record: " in said
    assert not path.exists()
    (moved,) = Path("results/replaced").glob(f"*/runs/{name}.json")
    assert not items_of(path).exists()
    assert (Path("outputs/replaced") / moved.parts[-3] / name).is_dir()
    assert list(queue_of(run).todo()) == [name]
    assert capsys.readouterr().err == ""


def test_a_newer_record_is_refused_and_stays(run, written):
    path, _ = written
    changed(path, schema=SCHEMA + 1, colour=1)
    with pytest.raises(UserError, match="update layerfit") as error:
        queue_of(run).todo()
    assert not isinstance(error.value, Broken)
    assert path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_record_that_must_not_be_read_is_refused_and_stays(run, written):
    path, _ = written
    path.chmod(0)
    with pytest.raises(UserError, match="no permission"):
        queue_of(run).todo()


def test_that_of_another_rank_is_left_to_rank_0(run, written, monkeypatch):
    path, name = written
    cut(path)
    for variable, value in {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(variable, value)
    assert list(queue_of(run).todo()) == [name]
    assert path.exists()


def test_a_table_names_a_broken_record_and_todo_counts_it(tmp_path, monkeypatch, capsys):
    new_project(tmp_path, monkeypatch)
    monkeypatch.setattr(checks, "dirt", lambda: None)
    with composer():
        made = report.build.load("tiny").cells
    for cell in made:
        write(record(cell.run, ITEMS), ITEMS, "results")
    bad = made[1].run_id
    cut(record_path("results", bad))
    assert report.main(["todo", "tiny"]) == 0
    said = capsys.readouterr().out
    assert f"{bad}  {made[1].name:32}  broken record {bad}.json: " in said
    assert "1 runs to do" in said
    assert report.main(["render", "tiny", "--no-figures"]) == 1
    assert f"broken record {bad}.json" in capsys.readouterr().err
    assert runs([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_of_records_that_is_none_holds_none(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    Path("results/runs").write_text("a file")
    assert read("results", "0123456789") is None


def test_items_of_an_attempt_without_a_record_do_not_outlive_the_next_one(run, written):
    path, name = written
    path.unlink()
    write(record(run, {}), {}, "results")
    assert read("results", name).result.scores == []


def test_what_a_process_finds_broken_it_replaces(run, written):
    """A file that was damaged while the run was under way: the working folder, in use, stays."""
    path, name = written
    queued = queue_of(run).runs[name]
    queued.write()
    shutil.copy(path, "copy.json")
    cut(path)
    assert queued.status() is None
    assert (queued.folder / "run.json").exists()
    shutil.copy("copy.json", path)
