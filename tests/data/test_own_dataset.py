"""A data set joins with one file, conf/dataset/<name>.yaml; a mistake in it is one line."""

import json
import re
import shutil

import pytest

from layerfit.cli import main
from layerfit.config import CONF, compose, composer, composition, run_id
from layerfit.data import load_data
from layerfit.data.check import check_dataset
from layerfit.data.reading import read_file
from layerfit.launch.preflight import check_world
from layerfit.models.hub import EMBEDDED, load_tokenizer

TOY = """\
defaults: [schema, _self_]
name: toy
id: local
path: data/toy.jsonl
form: prompt
template: plain
max_length: 16
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A copy of conf/ and a working directory with some rows of the embedded world."""
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(composition, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    rows = read_file(EMBEDDED / "datasets" / "layerfit" / "nano" / "train.jsonl.gz")[:20]
    (tmp_path / "data" / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "conf"


def test_one_file_is_enough(conf, tmp_path):
    (conf / "dataset" / "toy.yaml").write_text(TOY)
    with composer():
        run = compose(["dataset=toy", "method=full"])
    assert (run.dataset.name, run.training.max_length) == ("toy", 16)
    check_dataset(run.dataset, run.hub)
    check_world(run)
    card = load_data(run.dataset, run.training, run.hub, load_tokenizer(run.model, run.hub)).card
    assert (card.kept, card.complete, card.unknown_token_share) == (20, None, 0.0)


def test_its_rows_name_its_runs_wherever_they_lie(conf, tmp_path):
    (conf / "dataset" / "toy.yaml").write_text(TOY)

    def name() -> str:
        with composer():
            return run_id(compose(["dataset=toy", "method=full"]))

    before = name()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (conf / "dataset" / "toy.yaml").write_text(TOY.replace("data/", "elsewhere/"))
    assert name() == before
    with (tmp_path / "elsewhere" / "toy.jsonl").open("a") as file:
        file.write('{"prompt": "a", "response": "b"}\n')
    assert name() != before


MISTAKES = {
    "no YAML": (TOY + "num_rows: [1\n", "dataset/toy.yaml"),
    "a key twice": (TOY + "name: other\n", "duplicate key name"),
    "an unknown key": (TOY + "pathh: x\n", "In 'dataset/toy': .* Key 'pathh' not in 'DatasetConfig'"),
    "a word for a number": (TOY + "num_validation: many\n", "In 'dataset/toy': .*'many' of type 'str'"),
    "an unknown form": (TOY.replace("form: prompt", "form: sharegpt"), r"dataset.form='sharegpt' .* text, lines$"),
    "no id": (TOY.replace("id: local\n", ""), "no value for dataset.id; .* or in its file in conf/"),
    "no path": (TOY.replace("path: data/toy.jsonl\n", ""), "dataset=toy needs dataset.path="),
    "no such file": (TOY.replace("toy.jsonl", "boy.jsonl"), "dataset.path=data/boy.jsonl does not exist .relative to"),
    "columns of another form": (TOY.replace("form: prompt", "form: messages"), "needs a list 'messages'"),
    "an empty file": ("", "no value for dataset.form, dataset.id, dataset.name"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_it_is_one_line(conf, capfd, case):
    text, expected = MISTAKES[case]
    (conf / "dataset" / "toy.yaml").write_text(text)
    assert main(["dataset=toy", "method=full"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("layerfit: ")
    assert re.search(expected, lines[0]), lines[0]
