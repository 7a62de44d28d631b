"""A ranking names every unit with a finite number, or is refused in one line before anything starts."""

import json
import os

import pytest

from layerfit import config
from layerfit.config import compose, composer
from layerfit.errors import UserError
from layerfit.importance.ranking import ranks, read_scores, spearman
from layerfit.launch.preflight import check_method
from layerfit.records.record import read_findings

UNITS = ["a", "b", "c"]
SCORES = {"a": 1.0, "b": 2, "c": 2.0}


@pytest.mark.parametrize("findings", [SCORES, {"scores": SCORES}, {"ranking": {"scores": SCORES}}])
def test_scores_are_found(findings):
    if findings is SCORES:
        with pytest.raises(ValueError, match="holds no `scores`"):
            read_scores(findings, UNITS)
    else:
        assert read_scores(findings, UNITS) == {"a": 1.0, "b": 2.0, "c": 2.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, True, "1", [1.0], {}])
def test_a_score_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"the score of b is .*, not a finite number"):
        read_scores({"scores": {**SCORES, "b": value}}, UNITS)


def test_a_ranking_that_ranks_nothing_is_refused():
    """It would choose by name; one unit alone is no choice."""
    with pytest.raises(ValueError, match="all 3 scores are 4, which ranks nothing"):
        read_scores({"scores": dict.fromkeys(UNITS, 4.0)}, UNITS)
    assert read_scores({"scores": {"a": 4.0}}, ["a"]) == {"a": 4.0}


def test_ranks_and_their_correlation():
    assert ranks({"a": 3.0, "b": 1.0, "c": 3.0}) == {"b": 1.0, "a": 2.5, "c": 2.5}
    assert spearman({"a": 1.0, "b": 2.0}, {"a": 5.0, "b": 3.0}) == -1.0


NESTED = "[" * 100_000
FILES = {
    "no file": (None, "it does not exist"),
    "empty": ("", "Expecting value"),
    "a list": ("[]", r"it is \[\], not an object"),
    "result a list": ('{"result": []}', r"result is \[\], not an object"),
    "result a number": ('{"result": 5}', "result is 5, not an object"),
    "findings a list": ('{"result": {"findings": []}}', r"result.findings is \[\], not an object"),
    "findings missing": ('{"result": {}}', "result.findings is null, not an object"),
    "a failed run": ('{"result": {"status": "failed", "findings": {}}}', "its run ended as failed"),
    "newer": ('{"schema": 99, "result": {"findings": {}}}', "its schema is 99"),
    "another schema": ('{"schema": "x", "result": {"findings": {}}}', "schema 'x'"),
    "NaN": ('{"scores": {"a": NaN}}', "it holds NaN"),
    "beyond floats": ('{"scores": {"a": 1e999}}', "beyond any float"),
    "a name twice": ('{"scores": {"a": 1, "a": 2}}', "'a' stands twice"),
    "deep": (NESTED, "nested too deeply"),
    "other text": (b"\xff\xfe", "utf-8"),
    "scores null": ('{"scores": null}', "holds no `scores`"),
    "scores a list": ('{"scores": [1, 2]}', "holds no `scores`"),
    "ranking a list": ('{"ranking": [1]}', "holds no `scores`"),
    "other units": ('{"scores": {"a": 1.0}}', "units of this model"),
}


@pytest.fixture(scope="module")
def by_file():
    """Runs whose ranking is the file r.json, by method."""
    static = ["method=static", "method.unit=module", "method.select=most", "method.num_units=4"]
    with composer():
        words = {"ila": ["method=ila"], "static": static}
        return {name: compose(["model=nano", *each, "method.ranking=r.json"]) for name, each in words.items()}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("method", ["ila", "static"])
def test_a_file_that_is_no_ranking_is_one_line(tmp_path, monkeypatch, by_file, name, method):
    monkeypatch.chdir(tmp_path)
    text, words = FILES[name]
    if text is not None:
        (tmp_path / "r.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words) as error:
        check_method(by_file[method], "layerfit/nano")
    assert "\n" not in str(error.value)
    assert "r.json" in str(error.value)


def test_equal_scores_in_a_file_are_refused(tmp_path, monkeypatch, by_file):
    monkeypatch.chdir(tmp_path)
    run = by_file["ila"]
    units = run.method.rankings().units(run.shape(run.model.anatomy()))
    (tmp_path / "r.json").write_text(json.dumps({"scores": dict.fromkeys(units, 4.0)}))
    with pytest.raises(UserError, match="ranks nothing"):
        check_method(run, "layerfit/nano")
    (tmp_path / "r.json").write_text(json.dumps({"scores": {unit: i for i, unit in enumerate(units)}}))
    check_method(run, "layerfit/nano")
    assert config.run_id(run)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "r.json"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(UserError, match="not a regular file"):
        read_findings(path)
