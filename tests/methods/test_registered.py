"""A method is registered in one place, METHODS; whatever else it lacks is named in one line each."""

import dataclasses
import shutil

import pytest

from layerfit import methods
from layerfit.config import ROOT, compose, composer, composition, messages
from layerfit.errors import UserError
from layerfit.methods import METHODS
from layerfit.methods.base import Method
from layerfit.report import cells
from tests.helpers.registered import lacking, unregistered


@dataclasses.dataclass
class Odd(Method):
    """A method that is no more than registered."""


@pytest.mark.parametrize("name", METHODS)
def test_a_registered_method_lacks_nothing(name):
    assert lacking(name) == []


def test_every_method_is_registered(monkeypatch):
    assert unregistered() == []
    Odd.__module__ = "layerfit.methods.full"
    monkeypatch.setattr(methods.full, "Odd", Odd, raising=False)
    assert unregistered() == [
        "Odd (layerfit.methods.full) cannot be chosen: add it to METHODS in layerfit/methods/__init__.py"
    ]


def test_what_is_missing_is_named_in_one_line_each():
    assert lacking("odd") == [
        "conf/method/odd.yaml is missing: begin it with defaults: [odd_schema, _self_]",
        "docs/methods/README.md has no row for `odd`: add one to its first table",
        "docs/methods/odd.md is missing: copy a card of a method like it, for example lisa.md",
    ]


def test_a_card_and_a_file_of_settings_that_do_not_fit_are_named_too(tmp_path):
    shutil.copytree(ROOT / "docs" / "methods", tmp_path / "docs" / "methods")
    shutil.copytree(ROOT / "conf" / "method", tmp_path / "conf" / "method")
    (tmp_path / "conf" / "method" / "odd.yaml").write_text("defaults: [lora_schema, _self_]\n")
    index = tmp_path / "docs" / "methods" / "README.md"
    row = "| `odd` | [full.md](full.md) | odd blocks | all | what is active | rebuild |\n"
    index.write_text(index.read_text().replace("| `full` |", f"{row}| `full` |", 1))
    assert lacking("odd", tmp_path) == [
        "conf/method/odd.yaml does not take its schema: add odd_schema to its defaults",
        "docs/methods/full.md does not name method=odd: give it a table of its keys",
    ]


CASES = {
    "odd": "method=odd is registered but conf/method/odd.yaml is missing; begin it with `defaults: ",
    "even": "conf/method/even.yaml uses even_schema but no method has that name; add it to METHODS in layerfit/methods",
}


@pytest.mark.parametrize("name", CASES)
def test_composing_says_which_half_is_missing(tmp_path, monkeypatch, name):
    """Of `odd` the file is missing, of `even` the line in METHODS."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for module in (composition, messages):
        monkeypatch.setattr(module, "CONF", tmp_path / "conf")
    monkeypatch.setitem(METHODS, "odd", Odd)
    (tmp_path / "conf" / "method" / "even.yaml").write_text("defaults: [even_schema, _self_]\n")
    word = f"method={name}"
    with composer():
        for ask in (lambda: compose([word]), lambda: cells.expand((word,), (0,), "results")):
            with pytest.raises(UserError, match=CASES[name]) as error:
                ask()
            assert "\n" not in str(error.value)
