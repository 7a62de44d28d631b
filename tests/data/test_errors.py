"""Data that cannot be used: one line that says what is wrong and what to do, exit status 2, nothing started."""

import gzip
import json
import os

import pytest

from layerfit.cli import main
from layerfit.config import CONF, compose, composer, run_id
from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig
from layerfit.data.check import check_dataset, check_template
from layerfit.errors import UserError
from layerfit.models.hub import load_tokenizer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {
        "empty.jsonl": "",
        "none.json": "[]",
        "broken.json": '[{"text": ',
        "broken.parquet": "PAR1",
        "other.jsonl": '{"question": "a", "answer": "b"}\n',
        "alpaca.jsonl": '{"instruction": "a", "output": "b"}\n',
        "text.jsonl": '{"text": "a"}\n',
        "blank.jsonl": '{"prompt": "a", "response": " "}\n' * 3,
        "third.jsonl": '{"text": "a"}\n' * 2 + '{"texts": "a"}\n',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    packed = gzip.compress(b'{"text": "a b c d"}\n' * 500)
    binary = {
        "cut.jsonl.gz": packed[:-20],
        "damaged.jsonl.gz": packed[:40] + b"????" + packed[44:],
        "broken.jsonl.gz": gzip.compress(b'{"text": '),
        "latin.jsonl.gz": gzip.compress('{"text": "é"}'.encode("latin-1")),
        "twice/train.jsonl.gz": packed,
        "twice/train.jsonl": b'{"text": "a b c d"}\n',
    }
    (tmp_path / "twice").mkdir()
    for name, content in binary.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "plain.jsonl.gz").write_text('{"text": "a"}\n')
    (tmp_path / "mirror").mkdir()
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_text("---\nconfigs: [{data_files: ../text.jsonl}]\n---\n")
    os.mkfifo(tmp_path / "fifo.jsonl")
    return tmp_path


OFFLINE = "hub.offline=true hub.mirror=mirror"
CASES = {
    "no path": ("dataset=local", "dataset.path=..."),
    "no such file": ("dataset=local dataset.path=nowhere.jsonl", "dataset.path=nowhere.jsonl does not exist"),
    "no data in the folder": (
        "dataset=local dataset.path=mirror",
        "no files .parquet, .jsonl (or .ndjson), .json, .csv or .tsv",
    ),
    "a FIFO": ("dataset=local dataset.path=fifo.jsonl", "dataset.path=fifo.jsonl is a FIFO, not a file or folder"),
    "a device": ("dataset=local dataset.path=/dev/zero", "dataset.path=/dev/zero is a device"),
    "a path that is too long": (f"dataset=local dataset.path={'a' * 300}", "is too long for a path"),
    "a card that points outside": ("dataset=local dataset.path=card", "README.md: data_files names '..', which is"),
    "empty": ("dataset=local dataset.path=empty.jsonl", "split 'train' of empty.jsonl has no rows"),
    "empty list": ("dataset=local dataset.path=none.json", "has no rows"),
    "broken JSON": ("dataset=local dataset.path=broken.json", "broken.json:1: it is not JSON: Expecting value"),
    "no gzip": (
        "dataset=local dataset.path=plain.jsonl.gz",
        "plain.jsonl.gz is not a complete gzip file: Not a gzipped",
    ),
    "cut gzip": (
        "dataset=local dataset.path=cut.jsonl.gz",
        "cut.jsonl.gz is not a complete gzip file: Compressed file",
    ),
    "damaged gzip": (
        "dataset=local dataset.path=damaged.jsonl.gz",
        "damaged.jsonl.gz is not a complete gzip file: Error",
    ),
    "broken JSON in gzip": (
        "dataset=local dataset.path=broken.jsonl.gz",
        "broken.jsonl.gz:1: it is not JSON: Expecting value",
    ),
    "other text in gzip": (
        "dataset=local dataset.path=latin.jsonl.gz",
        "latin.jsonl.gz:1: it is not UTF-8 text (byte 0xe9); it looks like Windows-1252 or Latin-1: convert",
    ),
    "plain and compressed": (
        "dataset=local dataset.path=twice",
        "and train.jsonl.gz are two formats of the split 'train', whose rows would count twice",
    ),
    "broken Parquet": ("dataset=local dataset.path=broken.parquet", "broken.parquet is not Parquet"),
    "unknown columns": ("dataset=local dataset.path=other.jsonl", "columns ['answer', 'question']"),
    "columns of another form": (
        "dataset=local dataset.path=alpaca.jsonl dataset.form=messages",
        "needs a list 'messages' or 'conversations'; the row has ['instruction', 'output']",
    ),
    "unknown form": ("dataset=local dataset.path=text.jsonl dataset.form=sharegpt", "use one of: auto, prompt"),
    "unknown template": ("dataset=local dataset.path=text.jsonl dataset.template=vicuna", "auto, plain, alpaca"),
    "text has no prompt": (
        "dataset=local dataset.path=text.jsonl dataset.template=alpaca",
        "dataset.form=text has no requests for dataset.template=alpaca; use plain",
    ),
    "a row among many": (
        "dataset=local dataset.path=third.jsonl",
        "third.jsonl:3: dataset.form=text needs the text column 'text'; the row has ['texts']",
    ),
    "all rows dropped": (
        "dataset=local dataset.path=blank.jsonl",
        "all responses of its 3 rows are empty",
    ),
    "all held out": ("dataset=local dataset.path=text.jsonl dataset.num_validation=1", "leaves none of 1 rows"),
    "lines held out": ("dataset=wikitext2 dataset.num_validation=5", "dataset.validation_split"),
    "no chat template": (
        "dataset=local dataset.path=alpaca.jsonl dataset.template=chat",
        "model=nano has no chat template (a base model?); set dataset.template=alpaca",
    ),
    "no such split": ("dataset=local dataset.path=alpaca.jsonl dataset.split=test", "use one of: train"),
    "nowhere": (f"dataset=lima {OFFLINE}", "dataset 'GAIR/lima' is not here"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_status_two(case, folder, capfd):
    words, expected = CASES[case]
    status = main(["training.max_length=64", *words.split()])
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert status == 2, captured.err
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("layerfit: ")
    assert expected in lines[0]
    assert not list(folder.glob("results/runs/*"))


def test_every_data_set_composes_and_says_what_was_published():
    names = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
    required = "nano alpaca_gpt4 alpaca_cleaned lima no_robots commonsense_170k math_10k wikitext2 local"
    assert set(required.split()) <= set(names)
    with composer():
        for name in names:
            words = [f"dataset={name}"] + (["dataset.path=x"] if name == "local" else [])
            found = compose(words).dataset
            assert found.name == name
            if found.path is None:  # a file of the user's own was not published anywhere
                assert found.num_rows is not None
                assert found.num_validation > 0 or found.validation_split


ROWS = {
    "no_robots": {
        "prompt": "Summarise.",
        "prompt_id": "ab",
        "messages": [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "Summarise."},
            {"role": "assistant", "content": "Done."},
        ],
        "category": "Summarize",
    },
    "math_10k": {"instruction": "What is 2 + 2?", "input": "", "output": "It is 4.", "answer": "4.0"},
}


@pytest.mark.parametrize("name", ROWS)
def test_sets_that_no_copy_is_at_hand_of_are_read_by_their_cards_columns(tmp_path, name):
    """Rows with the columns of the hub's cards; the sets themselves were not seen."""
    from layerfit.data import load_data

    with composer():
        run = compose([f"dataset={name}", "training.max_length=128", "dataset.num_validation=1"])
    place = tmp_path / "datasets" / run.dataset.id / "data"
    place.mkdir(parents=True)
    (place / "train-00000-of-00001.jsonl").write_text((json.dumps(ROWS[name]) + "\n") * 4)
    hub = HubConfig(mirror=str(tmp_path), offline=True)
    check_dataset(run.dataset, hub)
    card = load_data(run.dataset, run.training, hub, load_tokenizer(run.model, hub)).card
    assert (card.rows, card.kept, card.dropped) == (4, 3, {"held out": 1})
    assert card.complete is False


def test_a_file_counts_by_its_content_wherever_it_is(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    with composer():
        here, home, other = (
            run_id(compose(["dataset=local", f"dataset.path='{path}'"]))
            for path in ("alpaca.jsonl", "~/alpaca.jsonl", "~/text.jsonl")
        )
    assert here == home != other


def test_a_model_with_a_chat_template_passes(tmp_path):
    model = ModelConfig(name="m", id="m/m", path=str(tmp_path))
    chat = DatasetConfig(id="org/d", form="messages", template="chat")
    with pytest.raises(UserError, match="model=m has no chat template"):
        check_template(chat, model, HubConfig())
    check_template(DatasetConfig(id="org/d", form="messages", template="alpaca"), model, HubConfig())
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    check_template(chat, model, HubConfig())
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    check_template(chat, model, HubConfig())
