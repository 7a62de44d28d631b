"""`layerfit runs`: records by name, filtered, quickly."""

import csv
import io
import time

import pytest

from layerfit.config import ROOT, composer
from layerfit.records.record import write
from layerfit.report import build, spec
from layerfit.report.runs import main
from tests.helpers.report_fakes import KEYS, new_project, record


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = new_project(tmp_path, monkeypatch)
    with composer():
        for cell in build.load("tiny").cells:
            items = {key: [1.0, 0.0, 1.0, 1.0] for key in KEYS}
            write(record(cell.run, items, label=f"{cell.row}, all"), items, "results")
    return folder


def rows(capsys):
    """Lines without the header and the count."""
    return capsys.readouterr().out.splitlines()[1:-1]


def test_runs_are_listed_by_name(project, capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split() == ["id", "table", "row", "method", "seed", "status", "score", "of"]
    assert text.splitlines()[-1] == "3 of 3 runs in results/runs: 3 ok"
    assert all(part in text for part in ("LoRA, all", "0.7500", "nano_facts/acc and 1 more"))


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("method=lora", 2),
        ("method=lora seed=1", 1),
        ("seed=0,1", 2),
        ("method=v*,lora", 3),
        ("model=nano dataset=nano engine=zero0 eval=nano", 3),
        ("status=failed", 0),
        ("method=vanilla seed=1", 0),
    ],
)
def test_filters(project, capsys, words, number):
    assert main(words.split()) == 0
    assert len(rows(capsys)) == number


def test_a_label_with_a_comma_is_one_value(project, capsys):
    assert main(["row=LoRA, all"]) == 0
    assert len(rows(capsys)) == 2


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("methd=lora", "did you mean method=lora? the keys are: run_id, table,"),
        ("colour=red", "'colour=red' is not a filter; the keys are"),
        ("lora", "'lora' is not a filter"),
        ("method=lroa", "no recorded run has method=lroa; did you mean 'lora'?"),
        ("model=llama", "there are: nano"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(project, capsys, word, text):
    assert main([word]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error


def test_csv_is_of_the_runs_that_are_kept(project, capsys):
    assert main(["method=lora", "--csv", "-"]) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(one["method"], one["seed"], one["task"], one["value"]) for one in found] == [
        ("lora", seed, task, "0.75") for seed in "01" for task in ("nano_facts", "nano_rules")
    ]


def test_tables_that_show_a_run_are_found_by_composing_them(project, capsys, monkeypatch):
    monkeypatch.setattr(spec, "known", lambda: ["tiny"])
    assert main(["--tables", "table=tiny"]) == 0
    assert all(" tiny " in row for row in rows(capsys))


def test_an_empty_folder_is_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert "0 of 0 runs" in capsys.readouterr().out
    assert main(["method=lora"]) == 0


def test_all_committed_records_take_seconds(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    start = time.process_time()
    assert main(["table=nano_main", "seed=0"]) == 0
    assert time.process_time() - start < 5
    assert len(rows(capsys)) >= 7
