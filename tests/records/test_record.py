"""Records of every schema are read; what a record cannot be is one line with the fix."""

import dataclasses
import json
import shutil
from types import MappingProxyType

import pytest

from layerfit.config import ROOT
from layerfit.errors import UserError
from layerfit.records import record as module
from layerfit.records.aside import set_aside
from layerfit.records.record import SCHEMA, UPGRADES, Result, parse, read, read_all, record_path, same_result

COMMITTED = ROOT / "results"
RUN = "0037f7f768"


def committed():
    return json.loads(record_path(COMMITTED, RUN).read_text())


def write(folder, data):
    path = record_path(folder, data["run_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def test_every_committed_record_loads():
    found = read_all(COMMITTED)
    assert len(found) == len(list((COMMITTED / "runs").glob("*.json"))) > 700
    assert all(name == record.run_id and record.schema == SCHEMA for name, record in found.items())
    for kept in (record.result.config for record in found.values()):  # no path: how files are hashed may change
        assert (kept["model"]["path"], kept["dataset"]["path"]) == (None, None)
        assert kept["method"].get("ranking") in (None, "auto")


def test_there_is_an_upgrade_from_every_schema():
    assert list(UPGRADES) == list(range(1, SCHEMA))


def test_older_records_go_through_the_chain(tmp_path, monkeypatch):
    """Schema 0, made up, called its label a name."""

    def from_0(data):
        return {key: value for key, value in data.items() if key != "name"} | {"label": data["name"]}

    monkeypatch.setattr(module, "UPGRADES", MappingProxyType({0: from_0, **UPGRADES}))
    data = committed()
    write(tmp_path, {**data, "name": data["label"], "schema": 0} | {"label": None})
    shutil.copy(COMMITTED / "runs" / f"{RUN}.items.json.gz", tmp_path / "runs")
    (old,) = read_all(tmp_path).values()
    assert old == read(COMMITTED, RUN)
    card = old.result.data
    assert card.unknown_token_share is card.unread_columns is card.dropped_turns is None


CASES = {
    "newer": ({"schema": SCHEMA + 1}, f"its schema is {SCHEMA + 1} and this layerfit reads up to {SCHEMA}; update"),
    "unknown": ({"schema": 0}, "not a record: schema 0; move it away and run again"),
    "no number": ({"schema": "two"}, "not a record: schema 'two'; move it away"),
    "a field of nobody": ({"colour": 1}, "not a record: .*colour.*; move it away and run again"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_record_is_one_line_with_the_fix(tmp_path, case):
    change, text = CASES[case]
    write(tmp_path, {**committed(), **change})
    with pytest.raises(UserError, match=f"{RUN}.json: {text}") as error:
        read(tmp_path, RUN)
    assert "\n" not in str(error.value)
    assert ("run again" in str(error.value)) == (case != "newer")


def test_what_an_older_version_did_not_look_for_is_no_difference():
    old = parse(committed()).result
    card = dataclasses.replace(old.data, unknown_token_share=0.0, unread_columns=["x"], dropped_turns={"y": 1})
    again = dataclasses.replace(old, data=card, findings={**old.findings, "new": 1})
    assert same_result(old, again)
    assert not same_result(again, old)  # what was looked for and is gone is one
    assert not same_result(old, dataclasses.replace(again, losses=[*old.losses, 1.0]))
    assert not same_result(again, dataclasses.replace(again, data=dataclasses.replace(card, unknown_token_share=0.5)))
    assert not same_result(again, dataclasses.replace(again, data=dataclasses.replace(card, dropped_turns={})))
    assert same_result(Result({}, "failed"), Result({}, "failed"))


def test_records_set_aside_are_all_there(tmp_path):
    names = ["runs/a.json", "runs/a.items.json.gz", "rankings/a.json", "answers/a.jsonl.gz", "runs/ab.json"]
    for name in [*(f"results/{name}" for name in names), "outputs/a/checkpoint.pt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    kept, worked = set_aside(["a"], tmp_path / "results", tmp_path / "outputs")
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert "results/runs/ab.json" in left
    assert "results/runs/a.json" not in left
    assert [(kept / name).read_text() for name in names[:4]] == [f"results/{name}" for name in names[:4]]
    assert (worked / "a" / "checkpoint.pt").is_file()
    assert kept.parent == tmp_path / "results" / "replaced"


def test_records_set_aside_within_a_second_lie_in_folders_of_their_own(tmp_path):
    path, places = tmp_path / "results/runs/a.json", []
    for number in range(3):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
        places += set_aside(["a"], tmp_path / "results", tmp_path / "outputs")
    assert [(place / "runs/a.json").read_text() for place in places] == ["0", "1", "2"]


def test_records_that_cannot_be_moved_are_one_line(tmp_path):
    write(tmp_path, committed())
    (tmp_path / "replaced").write_text("a file")
    with pytest.raises(UserError, match=r"records cannot be moved to .*replaced: "):
        set_aside([RUN], tmp_path, None)
