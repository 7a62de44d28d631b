"""Nonsense for every other command: one line, status 2, nothing started, nothing written."""

import contextlib
import io
from contextlib import nullcontext
from pathlib import Path

import pytest

from layerfit import cli, config, launch
from layerfit.launch import local

WORDS = {
    "nothing": "",
    "a blank": " ",
    "5,000 letters": "x" * 5000,
    "a path upwards": "../../etc/passwd",
    "a path": "/etc/passwd",
    "a folder": "folder",
    "a file": "file",
    "no such name": "nowhere",
    "another key": "nope=b",
    "no key": "=5",
    "a profile of a profile": "nano_main.nano.nano",
    "the wrong case": "NANO_MAIN",
    "dots": "..",
    "an option": "--nope",
    "NUL": "a\0b",
    "no UTF-8": "a\udcffb",
    "an infinity": "method.rank=inf",
    "a group taken out": "~training",
}
OPTIONS = {
    ("todo", "demo"): ("--csv x", "--draft"),
    ("table", "demo"): (
        "--csv folder",
        "--csv nowhere/x",
        "--csv",
        "method.rank=5",
        "hydra.run.dir=x",
        "+foo=1",
        "nope",
    ),
    ("render", "demo"): ("--csv folder", "--csv ~nobodyhere/x", "--all", "method.rank=5"),
    ("rerun", "demo"): ("--folder ~nobodyhere/x", "--folder", f"--folder {'x' * 300}"),
    ("tune", "demo"): ("--csv x", "nope"),
    ("runs",): ("--csv folder", "--csv nowhere/x", "--results file", "--results nowhere", "--nope"),
    ("report",): ("--output folder", "--output file/x", "--output ~nobodyhere/x"),
    ("claims",): ("--profile nope", "nope"),
    ("estimate", "demo"): ("--mfu inf", "--mfu 0", "--mfu a", "--tflops nan", "--tflops 1e999", "--gpu nope", "nope"),
    ("prefetch", "demo"): ("--mirror file", "--mirror ~nobodyhere/x", "--mirror"),
    ("judge", "rescore"): ("folder", "nowhere", "file --questions folder", "~nobodyhere/x", "x" * 300),
    ("judge",): ("nope", ""),
}
CASES = {f"{name}: {said}": [name, *(["rescore"] if name == "judge" else []), word]
         for name in cli.COMMANDS for said, word in WORDS.items()}  # fmt: skip
CASES |= {
    f"{' '.join(first)} {more}": [*first, *more.split()] for first, options in OPTIONS.items() for more in options
}


@pytest.fixture(scope="module")
def composer():
    with config.composer():
        yield


@pytest.fixture
def alone(tmp_path, monkeypatch, composer):
    def started(*_, **__):
        raise AssertionError("it was started")

    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("{\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "make_launcher", started)
    monkeypatch.setattr(local, "run_all", started)
    for module in ("report.__main__", "page.__main__", "claims.__main__", "estimate.__main__"):
        monkeypatch.setattr(f"layerfit.{module}.composer", nullcontext)
    monkeypatch.setattr(config, "composer", nullcontext)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_it_is_one_line(alone, case):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        status = cli.main(CASES[case])
    lines = error.getvalue().splitlines()
    assert (status, len(lines)) == (2, 1), lines
    assert len(lines[0]) < 2000
    assert {path.name for path in Path().iterdir()} == {"folder", "file"}
