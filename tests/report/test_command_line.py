"""`python -m layerfit.report`: what it prints, writes and returns; and that it starts without torch."""

import subprocess
import sys

import pytest

from layerfit.config import ROOT, composer
from layerfit.records.record import write
from layerfit.report import build
from layerfit.report.__main__ import main
from tests.helpers.report_fakes import KEYS, new_project, record


@pytest.fixture
def project(tmp_path, monkeypatch):
    return new_project(tmp_path, monkeypatch)


def test_from_the_command_line(project, capsys):
    assert main(["todo", "tiny"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 runs to do"
    assert main(["render", "tiny"]) == 1
    assert "no record: Vanilla; LoRA, seed 0; LoRA, seed 1" in capsys.readouterr().err
    assert main(["render", "--all"]) == 0
    assert "no table has been rendered yet" in capsys.readouterr().out
    with composer():
        for cell in build.load("tiny").cells:
            items = {KEYS[0]: [float(i % 3 == 0) for i in range(30)]}
            write(record(cell.run, items), items, "results")
    assert main(["todo", "tiny"]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert main(["render", "tiny"]) == 0
    made = {p.relative_to(project / "results").as_posix() for p in (project / "results").glob("[tf]*/*")}
    assert made == {"tables/tiny.md", "tables/tiny.tex", "figures/tiny.png", "figures/tiny.pdf"}
    before = (project / "results/tables/tiny.md").read_bytes()
    assert main(["render", "--all", "--no-figures"]) == 0
    assert (project / "results/tables/tiny.md").read_bytes() == before
    assert main(["cells", "tiny"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("seed=1")


@pytest.mark.parametrize(
    ("argv", "text"),
    [(["todo", "nope"], "known tables: tiny"), (["render"], "--all"), (["tune", "tiny"], "no section `tuning`")],
)
def test_a_mistake_is_one_line_and_status_2(project, capsys, argv, text):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error


def test_tables_need_no_torch():
    code = (
        "import sys, layerfit.report.__main__ as m, layerfit.report.figure, layerfit.report.tune\n"
        "from layerfit.config import composer, compose, required_runs\n"
        "with composer(): required_runs(compose(['method=ila']))\n"
        "bad = {'torch', 'transformers', 'pandas', 'scipy.stats', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
