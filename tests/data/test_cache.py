"""Kept tokens are the tokens, whoever wrote them and whatever happened to the file."""

import dataclasses
import json
import multiprocessing
import threading

import numpy as np
import pytest

from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig, TrainingConfig
from layerfit.data import cache as module
from layerfit.data import load_data, loading
from layerfit.data.cache import cached, key, pack, unpack
from layerfit.data.tokenise import IGNORE, Example
from layerfit.models.hub import load_tokenizer

NANO = ModelConfig(name="n", id="layerfit/nano", num_layers=16, max_positions=128)
ROWS = [
    Example(np.array([1, 2, 3], np.int32), np.array([IGNORE, IGNORE, 3], np.int32)),
    "no target",
    Example(np.array([4, 5], np.int32), np.array([IGNORE, 5], np.int32), truncated=True),
    "empty response",
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(NANO, HubConfig())


def plain(rows):
    return [row if isinstance(row, str) else (row.ids.tolist(), row.labels.tolist(), row.truncated) for row in rows]


def refuse():
    raise AssertionError("the rows are made again")


def data(path, tokenizer, folder, *, seed=0, form="prompt", template="plain", **extra):
    config = DatasetConfig(
        name="t", id="local", path=str(path), form=form, template=template, seed=seed, num_validation=3
    )
    training = TrainingConfig(**{"max_steps": 1, "batch_size": 4, "max_length": 16} | extra)
    return load_data(config, training, HubConfig(), tokenizer, folder)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Rows of which some are dropped and some cut; anything is large enough to be kept."""
    monkeypatch.setattr(loading, "MIN_CHARACTERS", 0)
    rows = [{"prompt": "a b " * (i % 9), "response": "x " * (i % 4)} for i in range(40)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "d.jsonl"


def everything(found):
    return plain(found.train), plain(found.validation), dataclasses.asdict(found.card)


def test_kept_rows_come_back(tmp_path):
    assert plain(unpack(pack(ROWS), 4)) == plain(ROWS)
    assert plain(unpack(pack([]), 0)) == []
    path = tmp_path / "a" / "b.npz"
    assert plain(cached(path, 4, lambda: ROWS)) == plain(cached(path, 4, refuse)) == plain(ROWS)
    assert [p.name for p in path.parent.iterdir()] == ["b.npz"]


@pytest.mark.parametrize("damage", ["half", "empty", "a flipped bit", "not an archive", "of other rows"])
def test_a_broken_file_is_made_again(tmp_path, capsys, damage):
    path, whole = tmp_path / "k.npz", pack(ROWS)
    place = whole.index(np.array([4, 5], np.int32).tobytes())
    path.write_bytes(
        {
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "a flipped bit": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
            "not an archive": b"tokens",
            "of other rows": pack(ROWS[:2]),
        }[damage]
    )
    assert plain(cached(path, 4, lambda: ROWS)) == plain(ROWS)
    assert "tokenising again" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_where_nothing_can_be_written_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert plain(cached(tmp_path / "file" / "k.npz", 4, lambda: ROWS)) == plain(ROWS)
    assert "cannot be cached" in capsys.readouterr().out


def test_a_run_that_finds_tokens_has_the_same_data(file, tmp_path, tokenizer, monkeypatch):
    fresh = everything(data(file, tokenizer, None))
    assert fresh[2]["dropped"]["empty response"] > 0
    assert fresh[2]["truncated"] > 0
    assert everything(data(file, tokenizer, tmp_path / "cache")) == fresh
    other_seed = everything(data(file, tokenizer, None, seed=1))
    assert other_seed != fresh
    monkeypatch.setattr(loading, "tokenise_rows", lambda *_, **__: refuse())
    assert everything(data(file, load_tokenizer(NANO, HubConfig()), tmp_path / "cache")) == fresh
    assert everything(data(file, tokenizer, tmp_path / "cache", seed=1)) == other_seed
    with pytest.raises(AssertionError, match="made again"):
        data(file, tokenizer, tmp_path / "elsewhere")


def test_small_data_are_not_kept(file, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(loading, "MIN_CHARACTERS", 10_000)
    data(file, tokenizer, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_whatever_changes_tokens_changes_the_name(file, tmp_path, tokenizer, monkeypatch):
    folder = tmp_path / "cache"

    def number(*args, **kwargs):
        data(*args, **kwargs)
        return len(list(folder.iterdir()))

    assert number(file, tokenizer, folder) == 1
    assert number(file, tokenizer, folder, packing=True) == 1
    assert number(file, tokenizer, folder, max_length=8) == 2
    assert number(file, tokenizer, folder, loss_on_prompt=True) == 3
    assert number(file, tokenizer, folder, template="alpaca") == 4
    other = load_tokenizer(NANO, HubConfig())
    other.add_tokens(["x x"])
    assert number(file, other, folder) == 5
    other_end = load_tokenizer(NANO, HubConfig())
    other_end.eos_token = other_end.convert_ids_to_tokens(5)
    assert number(file, other_end, folder) == 6
    with file.open("a") as lines:
        lines.write('{"prompt": "a", "response": "b"}\n')
    assert number(file, tokenizer, folder) == 7
    monkeypatch.setattr(module, "_CODE", ("templates.py",))
    assert number(file, tokenizer, folder) == 8


def test_the_name_is_the_same_in_every_process(tokenizer):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_key) == _key() == key(tokenizer, text="abc", length=4)


def _key():
    return key(load_tokenizer(NANO, HubConfig()), length=4, text="abc")


def test_many_at_once_read_whole_files_only(tmp_path):
    """Writers delete the file and make it again while readers read it."""
    path = tmp_path / "k.npz"
    rows = [Example(np.arange(500, dtype=np.int32) + i, np.arange(500, dtype=np.int32) + i) for i in range(200)]
    expected, wrong, stop = plain(rows), [], threading.Event()

    def write():
        while not stop.is_set():
            path.unlink(missing_ok=True)
            cached(path, 200, lambda: rows)

    def read():
        while not stop.is_set():
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            try:
                found = plain(unpack(content, 200))
            except Exception as error:
                found = error
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=target) for target in (write, write, read, read)]
    for thread in threads:
        thread.start()
    stop.wait(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [p.name for p in tmp_path.iterdir()] == ["k.npz"]
