"""A user's own folder of configuration joins layerfit's: choices of groups, tables, tuned values."""

import os
import subprocess
import sys

import pytest

from layerfit import config
from layerfit.cli import main, split_folders
from layerfit.errors import UserError
from layerfit.report import build, spec

NANO = config.CONF / "dataset" / "nano.yaml"
TABLE = """title: Mine
base: [dataset=mine, training.max_steps=2]
rows: {LoRA: [method=lora]}
seeds: [0]
columns: {Facts: nano_facts/acc}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    (folder / "dataset").mkdir(parents=True)
    (folder / "dataset" / "mine.yaml").write_text(NANO.read_text().replace("name: nano", "name: mine"))
    (folder / "table").mkdir()
    (folder / "table" / "ours.yaml").write_text(TABLE)
    return folder


def test_a_choice_and_a_table_of_ones_own(mine):
    with config.joined([str(mine)]), config.composer():
        assert config.compose(["dataset=mine"]).dataset.name == "mine"
        assert config.compose(["method=lisa"]).method_name() == "lisa"  # layerfit's are there still
        assert {"ours", "nano_main"} <= set(spec.known())
        assert [cell.run.dataset.name for cell in build.load("ours").cells] == ["mine"]
    with config.composer(), pytest.raises(UserError, match=r"dataset=mine is not known"):
        config.compose(["dataset=mine"])
    with pytest.raises(UserError, match="no table 'ours'"):
        spec.load("ours")


@pytest.mark.parametrize("words", [["--conf", "mine"], ["--conf=mine"], ["hydra.searchpath=[file://mine]"]])
def test_on_the_command_line(mine, capsys, words):
    assert main(["todo", "ours", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 runs to do"
    assert main([*words, "todo", "ours"]) == 0
    assert main(["todo", "ours"]) == 2


def test_hydras_own_flags_know_it(mine):
    """In a process of its own: Hydra's main sets up logging."""
    command = [sys.executable, "-m", "layerfit", "dataset=mine", "--conf", "mine", "--cfg", "job", "-p", "dataset"]
    env = {**os.environ, "PYTHONPATH": str(config.ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "name: mine" in done.stdout


def test_what_is_split_off():
    words = ["todo", "x", "hydra.searchpath=[file:///a,'/b']", "--conf", "c"]
    assert split_folders(words) == (["/a", "/b", "c"], ["todo", "x"])
    assert split_folders(["method=lisa", "-m"]) == ([], ["method=lisa", "-m"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--conf"], "--conf needs a folder"),
        (["--conf", "nowhere"], "nowhere is not a folder"),
        (["hydra.searchpath=[pkg://theirs]"], "file:///my/conf"),
    ],
)
def test_a_folder_that_is_none(mine, capsys, words, text):
    assert main(["method=lisa", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error


def test_a_file_under_a_name_that_layerfit_has(mine):
    copy = mine / "dataset" / "nano.yaml"
    copy.write_bytes(NANO.read_bytes())  # the same: either may be read
    with config.joined([str(mine)]):
        pass
    copy.write_text(NANO.read_text() + "num_validation: 3\n")
    with pytest.raises(UserError, match=r"layerfit already has dataset/nano, with other content; rename"):
        config.joined([str(mine)]).__enter__()


def test_tuned_values_go_to_and_come_from_ones_own_folder(mine, monkeypatch):
    assert config.place_for_tuned() == config.CONF
    with config.joined([str(mine)]):
        assert config.place_for_tuned() == mine
        assert config.find("tuned", "nano_main", own_first=True) == config.CONF / "tuned" / "nano_main.yaml"
        (mine / "tuned").mkdir()
        (mine / "tuned" / "nano_main.yaml").write_text("chosen: {}\n")
        assert config.find("tuned", "nano_main", own_first=True) == mine / "tuned" / "nano_main.yaml"
    monkeypatch.setattr("layerfit.config.folders.checkout", lambda: None)
    with pytest.raises(UserError, match="--conf DIR"):
        config.place_for_tuned()
