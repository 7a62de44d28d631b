"""Records as data frames and as CSV: one line a run and score."""

import dataclasses
import io
import subprocess
import sys

import pandas as pd
import pytest

from layerfit.config import ROOT, composer
from layerfit.errors import UserError
from layerfit.records.record import write
from layerfit.report import build, frame
from layerfit.report.__main__ import main
from layerfit.report.frames import COLUMNS, made_for
from tests.helpers.report_fakes import KEYS, MANIFEST, new_project, record

ITEMS = {KEYS[0]: [1.0, 0.0, 1.0, 1.0], KEYS[1]: [0.0, 1.0]}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A table of three runs: one with two scores, one that failed, one that is missing."""
    monkeypatch.setattr("layerfit.report.checks.dirt", lambda: None)
    folder = new_project(tmp_path, monkeypatch)
    with composer():
        vanilla, first, _ = build.load("tiny").cells
    write(record(vanilla.run, {}), {}, "results")
    made = record(first.run, ITEMS, label="LoRA")
    command = ["layerfit/report/__main__.py", "table", "--draft", "tiny"]
    measured = dataclasses.replace(made.measured, manifest={**MANIFEST, "command": command, "dirty": True})
    write(dataclasses.replace(made, measured=measured), ITEMS, "results")
    return folder


def test_a_table_is_one_line_a_run_and_score(project):
    found = frame("tiny")
    assert tuple(found.columns) == COLUMNS
    assert found[["row", "status"]].values.tolist() == [
        ["Vanilla", "ok"],
        ["LoRA", "ok"],
        ["LoRA", "ok"],
        ["LoRA", "missing"],
    ]
    lora = found[found.run_id == found.run_id[1]].set_index("task")
    assert lora.value.to_dict() == {"nano_facts": 0.75, "nano_rules": 0.5}
    assert lora.num_items.to_dict() == {"nano_facts": 4, "nano_rules": 2}
    one = lora.loc["nano_facts"]
    assert (one.table, one.seed, one.method_seed, one.metric, one.stderr) == ("tiny", 0, 0, "acc", 0.01)
    assert (one.method, one.model, one.dataset, one["eval"], one.engine) == ("lora", "nano", "nano", "nano", "zero0")
    assert (one.train_seconds, one.tokens_per_s, one.peak_memory_bytes) == (15.0, 5200.0, 48 * 2**20)
    assert (one.trainable_parameters, one.tokens, one.refused) == (1_000_000, 80_000, "dirty tree")
    vanilla, missing = found.iloc[0], found.iloc[3]
    assert pd.isna(vanilla.seed)
    assert pd.isna(vanilla.task)
    assert pd.isna(vanilla.refused)
    assert (missing.seed, missing.method) == (1, "lora")
    assert pd.isna(missing.value)
    assert str(found.dtypes["seed"]) == "Int64"


def test_all_records_say_what_they_were_made_for(project):
    found = frame(results="results")
    assert len(found) == 3
    lora = found[found.method == "lora"]
    assert set(lora.table) == {"tiny"}
    assert set(lora.refused) == {"dirty tree"}
    assert found[found.method == "vanilla"].seed.isna().all()
    assert frame(results="nowhere").empty


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("layerfit table T --no-figures", "T"),
        ("layerfit/report/__main__.py tune T", "T tuning"),
        ("layerfit/__main__.py -m method=lora", None),
        ("layerfit table", None),
    ],
)
def test_the_table_that_a_run_was_made_for(project, command, expected):
    with composer():
        made = record(build.load("tiny").cells[1].run, {})
    manifest = {**MANIFEST, "command": command.split()}
    assert (
        made_for(dataclasses.replace(made, measured=dataclasses.replace(made.measured, manifest=manifest))) == expected
    )


def test_every_committed_record_is_in_the_frame(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = frame()
    assert found.run_id.nunique() == len(list((ROOT / "results" / "runs").glob("*.json")))
    assert not found.duplicated(["run_id", "task", "metric"]).any()


def test_no_such_table_is_one_line(project):
    with pytest.raises(UserError, match="known tables: tiny"):
        frame("nope")


def test_a_rendered_table_is_written_as_csv(project, capsys):
    assert main(["render", "tiny", "--draft", "--no-figures", "--csv", "out.csv"]) == 0
    printed = capsys.readouterr().out
    assert "DRAFT" in printed
    pd.testing.assert_frame_equal(pd.read_csv("out.csv"), pd.read_csv(io.StringIO(frame("tiny").to_csv(index=False))))
    assert main(["render", "tiny", "--draft", "--no-figures", "--csv", "-"]) == 0
    assert capsys.readouterr().out == (project / "out.csv").read_text()  # nothing else: it goes on to a program
    assert main(["render", "tiny", "--csv", "no.csv"]) == 1
    assert not (project / "no.csv").exists()  # what is refused is not written either
    assert main(["render", "tiny", "--draft", "--no-figures", "--csv", "nowhere/out.csv"]) == 2
    assert main(["render", "--all", "--csv", "out.csv"]) == 2
    error = capsys.readouterr().err
    assert "--csv nowhere/out.csv" in error
    assert "--csv needs one table" in error


def test_the_package_of_the_report_stays_light():
    code = (
        "import sys, layerfit.report as r\n"
        "assert 'layerfit.report.frames' not in sys.modules\n"
        "assert callable(r.frame)\n"
        "import layerfit.report.runs\n"
        "bad = {'pandas', 'torch', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
