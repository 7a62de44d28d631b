"""How a record is written: JSON that can be read and compared line by line, the same bytes from the same values."""

import json
from pathlib import Path

import pytest

from layerfit.records.record import dumps

COMMITTED = sorted((Path(__file__).resolve().parents[2] / "results" / "runs").glob("*.json"))
VALUE = {"b": {"losses": [1.5, 2.0, None], "plans": [[0, ["layers.1"]]], "none": {}}, "a": [{"x": "é"}, {}]}
WRITTEN = r"""{
 "a": [
  {
   "x": "\u00e9"
  },
  {}
 ],
 "b": {
  "losses": [1.5,2.0,null],
  "none": {},
  "plans": [[0,["layers.1"]]]
 }
}"""


def test_a_line_for_a_key_and_one_for_a_list():
    assert dumps(VALUE) == WRITTEN
    assert json.loads(WRITTEN) == VALUE


def test_a_number_that_is_none_is_refused():
    for value in (float("nan"), [1.0, float("inf")], {"a": [float("nan")]}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            dumps(value)


def test_committed_records_are_written_so():
    assert COMMITTED
    assert [path.name for path in COMMITTED if dumps(json.loads(path.read_text())) + "\n" != path.read_text()] == []
