"""`make estimate` as a command: what it prints, as JSON too; mistakes in one line, before anything heavy."""

import json
import re
import subprocess
import sys

import pytest

from layerfit.config import ROOT, composer
from layerfit.estimate import __main__ as command
from layerfit.estimate.__main__ import main
from layerfit.estimate.check import checks
from layerfit.estimate.cost import Tracer
from layerfit.estimate.rows import rows
from layerfit.report import build


@pytest.fixture(scope="module")
def counted():
    """The estimates of nano_main and their checks, worked out once for the tests of what is printed."""
    with composer():
        loaded, tracer = build.load("nano_main"), Tracer()
        return rows(loaded, tracer), checks(loaded, tracer)


@pytest.fixture
def known(counted, monkeypatch):
    monkeypatch.setattr(command, "rows", lambda *_: counted[0])
    monkeypatch.setattr(command, "checks", lambda *_: counted[1])


@pytest.mark.usefixtures("known")
def test_from_the_command_line(capsys):
    assert main(["nano_main"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert re.search(r"Full FT +5 +1\.000 +1\.000 +1\.000 +1\.0", out)


@pytest.mark.usefixtures("known")
def test_as_json(capsys):
    assert main(["nano_main", "--json", "--tflops", "100", "--mfu", "0.5"]) == 0
    data = json.loads(capsys.readouterr().out)
    full = data["rows"][1]
    assert full["hours"] == pytest.approx(full["flops"] / 0.5e14 / 3600)
    assert full["fits"]["24 GB"] == "yes"
    assert full["memory"]["total"] == sum(
        full["memory"][p] for p in ("weights", "gradients", "optimizer", "activations")
    )
    assert data["ratios"]["Full FT"]["optimizer"] == 1
    assert data["ratios"]["Full FT"]["allocated"] is None  # the CPU's allocator does not say


MISTAKES = [(["nope"], "no table"), (["nano_main", "--mfu", "2"], "--mfu"), (["nano_main", "model=nope"], "nope")]


@pytest.mark.parametrize(("argv", "text"), MISTAKES)
def test_a_mistake_is_one_line_and_status_2(capsys, argv, text):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_mistakes_are_met_before_anything_heavy_is_imported():
    code = (
        "import sys; from layerfit.estimate.__main__ import main\n"
        f"status = {{main(argv) for argv, _ in {MISTAKES!r}}}\n"
        "bad = {'torch', 'transformers', 'peft', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0 if status == {2} else f'{status}')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
