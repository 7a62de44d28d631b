"""What a sweep shows of its runs is for the eye: nothing that lies in their files can stop it."""

import dataclasses
import json
from pathlib import Path

import pytest

from layerfit.errors import UserError
from layerfit.launch.display import Display, Progress
from layerfit.launch.queue import last_line, read_queued
from layerfit.launch.slurm_queue import Job, read_job

STEP = {"event": "step", "step": 3, "loss": 2.5}
PHASE = {"event": "phase", "name": "train", "total": 8}


def line(event: dict) -> bytes:
    return json.dumps(event).encode() + b"\n"


def progress_of(path: Path, *parts: bytes) -> Progress:
    progress = Progress("a", path, 0, 0.0)
    for part in parts:
        with path.open("ab") as file:
            file.write(part)
        progress.read()
    return progress


def test_what_is_written_is_shown(tmp_path):
    whole, cut = line(STEP), line({**STEP, "step": 4})
    shown = progress_of(tmp_path / "m", line(PHASE), whole, cut[:9])
    assert (shown.describe(), shown.share()) == ("train 3/8  loss 2.500", 0.1 + 0.75 * 3 / 8)
    with (tmp_path / "m").open("ab") as file:
        file.write(cut[9:])
    shown.read()
    assert shown.step == 4


NONSENSE = {
    "no JSON": b'{"event": "step", "step": 4, "lo\n',
    "no Unicode": b'{"event": "step", "step": 4, "loss": "\xff\xfe"}\n',
    "binary": bytes(range(11, 256)) + b"\n",
    "nul bytes of a crash": bytes(5000) + b"\n",
    "deep": b"[" * 100_000 + b"\n",
    "many digits": b'{"event": "step", "step": ' + b"9" * 10_000 + b', "loss": 1.0}\n',
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "null": b"null\n",
    "a step of text": line({**STEP, "step": "4"}),
    "a loss of null": line({**STEP, "step": 5, "loss": None}),
    "a step without a loss": line({"event": "step", "step": 5}),
    "an event of a list": line({"event": ["step"]}),
    "no event": line({"step": 5}),
    "a total of text": line({**PHASE, "total": "many"}),
    "a name of a list": line({**PHASE, "name": ["train"]}),
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_passed_over(tmp_path, nonsense):
    shown = progress_of(tmp_path / "m", line(PHASE), nonsense, line(STEP))
    assert shown.describe() == "train 3/8  loss 2.500"


@pytest.mark.parametrize("step", [-5, 10**9])
def test_a_bar_stays_inside(tmp_path, step):
    shown = progress_of(tmp_path / "m", line(PHASE), line({**STEP, "step": step}))
    assert 0 <= shown.share() <= 1


def test_a_file_that_cannot_be_read_shows_nothing(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "folder").mkdir()
    for name in ("none", "circle", "folder"):
        shown = Progress("a", tmp_path / name, 0, 0.0)
        shown.read()
        assert shown.describe() == "start"


LOGS = {
    "empty": (b"", "it is empty"),
    "blank": (b"\n\n  \n", "it is empty"),
    "an error": (b"Traceback\n  File\nValueError: no\n\n", "ValueError: no"),
    "binary": (b"words\n" + bytes(range(14, 32)) + b"\xff\xfe bad\x1b[31m\n", "\ufffd\ufffd bad[31m"),
    "a launcher's summary": (b"layerfit: the loss is nan\nRoot Cause\n=======\n", "the loss is nan"),
    "long": (b"x" * 10**6 + b"\nthe end\n", "the end"),
    "one long line": (b"y" * 10**6, "y" * 200),
}


@pytest.mark.parametrize(("text", "shown"), LOGS.values(), ids=LOGS)
def test_the_line_of_a_log_where_an_error_stands(tmp_path, text, shown):
    (tmp_path / "log").write_bytes(text)
    assert last_line(tmp_path / "log") == shown


def test_a_log_that_cannot_be_read_says_so(tmp_path):
    assert last_line(tmp_path / "none") == "it is empty"
    assert last_line(tmp_path).startswith("it cannot be read: ")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"method": 3}', '{"a": 1}', "[" * 100_000, '"\\ud800"'],
    ids=["empty", "cut", "list", "null", "number", "other", "deep", "surrogate"],
)
def test_files_of_another_layout_are_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    (tmp_path / "job.json").write_text(text)
    for read, name in ((read_queued, "run.json"), (read_job, "job.json")):
        with pytest.raises(UserError, match=name) as found:
            read(tmp_path / name if name == "run.json" else tmp_path)
        assert "\n" not in str(found.value)


def test_a_job_is_read_as_it_was_written(tmp_path):
    assert read_job(tmp_path) is None
    job = Job("slurm", "17_2", "outputs/slurm")
    (tmp_path / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
    assert read_job(tmp_path) == job
    (tmp_path / "job.json").write_text(json.dumps({**dataclasses.asdict(job), "job_id": 17}))
    with pytest.raises(UserError, match="not all text"):
        read_job(tmp_path)


def test_a_note_of_a_run_is_printed_once(tmp_path, capsys):
    """Such as a checkpoint that could not be used: otherwise only the run's log would say so."""
    run = dataclasses.make_dataclass("Run", ["label", "seed"])("mine", 3)
    display = Display("sweep", 1, 0)
    display.started("id", run, tmp_path)
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.write(line({"event": "note", "text": "a\x1b[31mline\nmore"}))
    display.refresh()
    display.refresh()
    display.finished("id", run, "ok")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == r"mine s3: a\x1b[31mline more"
    assert len(said) == 2
