"""The comparison with lm-eval's command line finds what differs, and goes on where it stopped."""

import json
import subprocess
import sys

import pytest

from layerfit.config import ROOT
from layerfit.config.schema import HubConfig
from layerfit.errors import UserError
from layerfit.evaluation.lm_eval import parity
from layerfit.evaluation.lm_eval.harness import hash_of
from layerfit.evaluation.lm_eval.parity import Setting, TaskOutcomes, TaskSet, differences, run, totals
from layerfit.records.record import Score
from tests.evaluation.test_command_line import MIRROR, STORIES, needs_mirror

PART = TaskSet({"ours_a": "a"}, 0)
HUB = HubConfig(mirror=str(MIRROR), offline=True)


def score(key, docs):
    task, metric = key.split("/")
    return Score(task, metric, 0.5, None, 2, 2, 0, "1", True, docs)


@pytest.mark.parametrize(
    ("ours", "docs", "equal", "differing"),
    [
        ([1.0, 0.0, 1.0], "x", 3, []),
        ([1.0, 1.0, 1.0], "x", 2, [[1, 1.0, 0.0]]),
        ([1.0, 0.0, 1.0], "y", 0, []),  # other items
        ([1.0, 0.0], "x", 0, []),  # an item is missing
        (None, "x", 0, []),
    ],
)
def test_differences_are_found(ours, docs, equal, differing):
    items = {} if ours is None else {"ours_a/acc": ours}
    theirs = {"a": TaskOutcomes({"acc": [1.0, 0.0, 1.0]}, "x")}
    found = differences(PART, [score("ours_a/acc", docs)], items, theirs)
    assert found["ours_a/acc"]["equal"] == equal
    assert found["ours_a/acc"]["differing"] == differing
    assert totals({"p": {"scores": found}}) == {"items": 3, "equal": equal}


def test_what_the_command_line_writes_is_read(tmp_path):
    name = "samples_mmlu_us_history_2026-01-02T03-04-05.678901.jsonl"
    lines = [{"doc_id": i, "acc": float(i), "metrics": ["acc"], "doc_hash": str(i), "doc": "\u2028"} for i in (1, 0)]
    (tmp_path / name).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    found = parity.read_samples(tmp_path)
    assert found == {"mmlu_us_history": TaskOutcomes({"acc": [0.0, 1.0]}, hash_of(["0", "1"]))}


@needs_mirror
def test_a_finished_part_is_kept_under_the_same_setting(tmp_path, monkeypatch):
    asked = []
    result = {"scores": {"k": {"items": 2, "equal": 1, "same_items": True, "differing": [[0, 1, 0]]}}, "seconds": {}}
    monkeypatch.setattr(parity, "compare", lambda *given: (asked.append(given[2]), result)[1])
    path = tmp_path / "parity" / "s.json"
    for setting in (Setting(limit=1), Setting(limit=1), Setting(limit=2)):
        report = run(STORIES, HUB, ["piqa", "mmlu"], setting, path, say=lambda _: None)
        assert (report["items"], report["equal"]) == (4, 2)
    assert asked == [parity.PARTS["piqa"], parity.PARTS["mmlu"]] * 2
    assert json.loads(path.read_text()) == report
    assert str(MIRROR) not in path.read_text()


@needs_mirror
@pytest.mark.slow
def test_the_script_compares(tmp_path):
    out = tmp_path / "s.json"
    command = [sys.executable, "scripts/parity.py", "stories260k", "--mirror", str(MIRROR), "--out", str(out)]
    command += ["--limit", "4", "--positions", "2048", "--parts", "piqa", "agieval"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "40 of 40 outcomes equal"
    report = json.loads(out.read_text())
    assert report["parts"]["agieval"]["scores"]["agieval_mc_sat_math/acc_norm"]["items"] == 4
    assert report["setting"]["versions"]["lm_eval"]


@needs_mirror
@pytest.mark.slow
def test_a_command_line_that_fails_is_said(tmp_path):
    part = TaskSet({"piqa": "piqa_no"}, 0)
    with pytest.raises(UserError, match="lm-eval's command line failed on piqa_no: "):
        parity.command_line(MIRROR / "models/karpathy/stories260K", part, HUB, Setting(limit=1), tmp_path)
