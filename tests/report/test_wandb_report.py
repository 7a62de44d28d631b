"""`make wandb-report`: what it would send, against the records themselves; and what it makes of W&B's own objects."""

import json
import statistics
import time

import pytest

from layerfit.config import ROOT, composer
from layerfit.report import build
from layerfit.report.wandb_report import send
from layerfit.report.wandb_report.__main__ import main
from layerfit.report.wandb_report.content import RECORD, REQUIRED, TABLE, dashboard


@pytest.fixture(scope="module")
def made():
    with composer():
        return dashboard(build.load("nano_main"))


def record(run_id: str) -> dict:
    return json.loads((ROOT / "results" / "runs" / f"{run_id}.json").read_text())


def test_every_run_is_its_record(made):
    ids = [run.id for run in made.runs]
    assert len(set(ids)) == len(ids)
    seen = {run.config.get("run_id"): run for run in made.runs if run.job_type == RECORD}
    assert len(seen) == 31  # vanilla once, six methods with five seeds
    for run_id, run in seen.items():
        read = record(run_id)
        assert [point["train/loss"] for point in run.history] == read["result"]["losses"]
        assert [point["train/step"] for point in run.history] == list(range(1, len(run.history) + 1))
        for score in read["result"]["scores"]:
            assert run.summary[f"eval/{score['task']}/{score['metric']}"] == score["value"]
        for part in ("weights", "gradients", "optimizer", "activations"):
            assert run.summary.get(f"memory/{part}_bytes") == read["measured"]["peak_memory_bytes"].get(part)
        assert run.config["method"]["kind"] == read["result"]["config"]["method"]["kind"]
        assert (run.group, run.tags) == ("nano_main", ("nano_main", read["method"]))
        assert None not in run.summary.values()


def test_rankings_are_there_but_in_no_panel(made):
    rankings = [run for run in made.runs if run.job_type == REQUIRED]
    assert len(rankings) == 5
    chosen = {block["runs"]["job_type"] for block in made.report["blocks"] if block["kind"] == "panels"}
    assert chosen == {RECORD, TABLE}


def test_the_tables_say_what_the_records_say(made):
    rows, runs = made.grids["rows"], made.grids["runs"]
    assert all(len(line) == len(rows.columns) for line in rows.data)
    full = dict(zip(rows.columns, next(line for line in rows.data if line[0] == "Full FT"), strict=True))
    mine = [dict(zip(runs.columns, line, strict=True)) for line in runs.data if line[0] == "Full FT"]
    values = [
        next(s["value"] for s in record(line["run_id"])["result"]["scores"] if s["task"] == "nano_facts")
        for line in mine
    ]
    assert [line["Facts"] for line in mine] == values
    assert full["Facts"] == pytest.approx(statistics.mean(values))
    assert full["Facts sd"] == pytest.approx(statistics.stdev(values))


def test_every_column_with_numbers_has_a_bar(made):
    panels = [panel for block in made.report["blocks"] for panel in block.get("panels", [])]
    bars = {panel["title"]: panel["metrics"] for panel in panels if panel["kind"] == "bar"}
    logged = set().union(*(run.summary for run in made.runs))
    for label in ("Facts", "Rules", "Retention"):
        assert bars[label] == [f"column/{label}"]
    for metrics in bars.values():
        assert set(metrics) <= logged


def test_offline_it_writes_what_it_would_send(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("layerfit.report.wandb_report.__main__.OUT", tmp_path)
    assert main(["nano_main", "--offline"]) == 0
    assert "nano_main: not sent (--offline); 37 runs" in capsys.readouterr().out
    lines = (tmp_path / "nano_main" / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [run.id for run in made.runs]
    before = {p.name: p.read_bytes() for p in (tmp_path / "nano_main").iterdir()}
    assert main(["nano_main", "--offline"]) == 0
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "nano_main").iterdir()}


def test_without_a_key_it_says_so_and_with_one_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("layerfit.report.wandb_report.__main__.OUT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main(["nano_main"]) == 0
    assert "not sent (no key" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(send, "PACKAGES", ("no_such_package",))
    assert main(["nano_main"]) == 2
    error = capsys.readouterr().err
    assert "needs the package no-such-package: pip install" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_table_run_as_wandb_takes_it(made, tmp_path):
    pytest.importorskip("wandb", reason="W&B is an extra")
    from tests.run.test_track import offline_records

    run = next(run for run in made.runs if run.job_type == TABLE)
    send._send_run(run, made, "layerfit", "somebody", tmp_path, mode="offline")
    found, deadline = offline_records(tmp_path), time.monotonic() + 60
    while not any(r.HasField("exit") for r in found) and time.monotonic() < deadline:
        time.sleep(0.2)
        found = offline_records(tmp_path)
    started = next(r.run for r in found if r.HasField("run"))
    assert (started.run_id, started.run_group, started.job_type) == (run.id, "nano_main", TABLE)
    logged = {item.key or item.nested_key[0] for r in found for item in r.history.item}
    assert {"rows", "runs"} <= logged


def test_the_report_as_wandb_workspaces_takes_it(made, monkeypatch):
    """All but the server: it is asked for the number of the project."""
    interface = pytest.importorskip("wandb_workspaces.reports.v2.interface", reason="wandb-workspaces is an extra")
    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: {"project": {"internalId": "1"}})
    model = send.report(made, "layerfit", "somebody")._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    grids = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == 4
    text = json.dumps(grids)
    assert '"vertical"' in text
    assert "row.value" in text
    for word in ("train/loss", "column/Facts", "nano_main", RECORD):
        assert word in text
