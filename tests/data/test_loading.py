"""Rows to examples: labels by hand, truncation, the card."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig, TrainingConfig
from layerfit.data import load_data
from layerfit.data.forms import turns
from layerfit.data.reading import first_row, read_file
from layerfit.data.sources import load_folder, read_rows
from layerfit.data.templates import exchanges
from layerfit.data.tokenise import IGNORE, tokenise
from layerfit.errors import UserError
from layerfit.files.dataset_folder import data_files
from layerfit.models.hub import EMBEDDED, load_tokenizer

MIRROR = Path(__file__).resolve().parents[3] / "shared" / "hub"
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no mirror at {MIRROR}")
WORDS = [
    "<unk>", "<s>", "</s>", "a", "b", "c", "d", "x", "y", "z",
]  # fmt: skip
A, B, C, D, X, Y, Z = range(3, 10)
BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def tokenizer():
    """One word, one token; opened by bos."""
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    base.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def examples(rows, tokenizer, max_length=16, form="prompt", template="plain", loss_on_prompt=False):
    written = [exchanges(turns(row, form), template) for row in rows]
    return tokenise(written, tokenizer, max_length, loss_on_prompt=loss_on_prompt)


def test_labels_by_hand(tokenizer):
    [example], dropped = examples([{"prompt": "a b", "response": "x y"}], tokenizer)
    assert example.ids.tolist() == [BOS, A, B, X, Y, EOS]
    assert example.labels.tolist() == [IGNORE, IGNORE, IGNORE, X, Y, EOS]
    assert (example.num_targets, example.truncated, dropped) == (3, False, {})


def test_loss_on_prompt_counts_everything_but_the_first_token(tokenizer):
    [example], _ = examples([{"prompt": "a b", "response": "x"}], tokenizer, loss_on_prompt=True)
    assert example.labels.tolist() == [IGNORE, A, B, X, EOS]


def test_turns_are_each_closed_and_bos_comes_once(tokenizer):
    row = {"messages": [{"role": "system", "content": "d"}]}
    row["messages"] += [{"role": r, "content": c} for r, c in [("user", "a"), ("assistant", "x"), ("user", "b")]]
    row["messages"] += [{"role": "assistant", "content": "y z"}, {"role": "user", "content": "c"}]
    [example], _ = examples([row, {"conversations": ["a"]}], tokenizer, form="messages")[0], None
    assert example.ids.tolist() == [BOS, D, A, X, EOS, B, Y, Z, EOS]
    assert example.labels.tolist() == [IGNORE, IGNORE, IGNORE, X, EOS, IGNORE, Y, Z, EOS]


def test_text_rows_are_all_target(tokenizer):
    [example], dropped = examples([{"text": "a b"}, {"text": "  "}], tokenizer, form="text")
    assert example.labels.tolist() == [IGNORE, A, B, EOS]
    assert dropped == {"empty response": 1}


@pytest.mark.parametrize(
    ("max_length", "ids"),
    [
        (6, [BOS, B, C, X, Y, EOS]),  # the prompt loses first, from its left; what opens it stays
        (4, [BOS, X, Y, EOS]),
        (3, [BOS, X, Y]),  # then the response, from its right
        (2, [BOS, X]),
    ],
)
def test_truncation_by_hand(tokenizer, max_length, ids):
    [example], _ = examples([{"prompt": "a b c", "response": "x y"}], tokenizer, max_length)
    assert example.ids.tolist() == ids
    assert example.truncated


def test_truncation_never_leaves_an_example_without_a_target(tokenizer):
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": " ".join("abcd"[i] for i in rng.integers(0, 4, p)),
            "response": " ".join("xyz"[i % 3] for i in range(r)),
        }
        for p in range(12)
        for r in range(1, 12)
    ]
    for max_length in (2, 3, 5, 9):
        found, dropped = examples(rows, tokenizer, max_length)
        assert len(found) == len(rows)
        assert not dropped
        assert all(len(x) <= max_length and x.num_targets and x.labels[0] == IGNORE for x in found)


def test_alpaca_prompts():
    [with_input] = exchanges(turns({"instruction": "I{x}", "input": "N", "output": "O"}, "alpaca"), "alpaca")
    [without] = exchanges(turns({"instruction": "I", "input": "", "output": "O"}, "alpaca"), "alpaca")
    assert with_input.prompt.endswith("### Instruction:\nI{x}\n\n### Input:\nN\n\n### Response:")
    assert without.prompt.endswith("request.\n\n### Instruction:\nI\n\n### Response:")
    assert without.response == "O"


@pytest.mark.parametrize(
    ("row", "form", "message"),
    [
        ({"prompt": "a"}, "prompt", "text column 'response'"),
        ({"text": 3}, "text", "text column 'text'"),
        ({"output": "x"}, "alpaca", "text column 'instruction'"),
        ({"text": "a"}, "messages", "'messages' or 'conversations'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "role 'tool'"),
    ],
)
def test_a_row_of_another_form_is_the_users_to_fix(row, form, message):
    with pytest.raises(UserError, match=message):
        turns(row, form)


def dataset(path=None, **extra):
    place = None if path is None else str(path)
    defaults = {"name": "t", "id": "none/none", "path": place, "form": "prompt", "template": "plain", "seed": 0}
    return DatasetConfig(**defaults | extra)


def training(**extra):
    return TrainingConfig(**{"max_steps": 1, "batch_size": 4, "max_length": 16} | extra)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def test_card_and_held_out_rows(tmp_path, tokenizer):
    rows = [{"prompt": "a " * (i % 5), "response": "x"} for i in range(20)] + [{"prompt": "a", "response": ""}]
    write_rows(tmp_path / "d.jsonl", rows)
    data = load_data(dataset(tmp_path / "d.jsonl", num_validation=5, num_rows=21), training(), HubConfig(), tokenizer)
    card = data.card
    assert card.rows == 21 == card.kept + sum(card.dropped.values())
    assert card.dropped["held out"] == 5
    assert card.complete is True
    assert data.num_rows == len(data.train) == card.kept
    assert sum(b.input_ids.shape[0] for b in data.validation_batches(2)) == len(data.validation) >= 4
    batch = data.batch([0, 3])
    assert batch.num_targets == 4
    assert batch.num_tokens == len(data.train[0]) + len(data.train[3])


def test_the_fingerprint_is_of_the_rows_and_not_of_their_file(tmp_path, tokenizer):
    rows = [{"prompt": "a", "response": "x", "note": "1"}, {"prompt": "b", "response": "y", "note": "2"}]
    found = []
    for name, some in (
        ("p", rows),
        ("q", [{k: r[k] for k in ("response", "prompt")} for r in rows]),
        ("r", rows[::-1]),
    ):
        write_rows(tmp_path / f"{name}.jsonl", some)
        found.append(
            load_data(dataset(tmp_path / f"{name}.jsonl"), training(), HubConfig(), tokenizer).card.fingerprint
        )
    assert found[0] == found[1] != found[2]
    pinned = dataset(tmp_path / "p.jsonl", fingerprint=found[0], num_rows=9)
    assert load_data(pinned, training(), HubConfig(), tokenizer).card.complete is True
    pinned.fingerprint = found[2]
    assert load_data(pinned, training(), HubConfig(), tokenizer).card.complete is False


def test_packing_orders_rows_and_keeps_all_examples(tmp_path, tokenizer):
    write_rows(tmp_path / "d.jsonl", [{"prompt": "a", "response": "x"}] * 9)
    data = load_data(dataset(tmp_path / "d.jsonl"), training(packing=True), HubConfig(), tokenizer)
    assert data.num_rows == 3
    assert data.batch([0, 1, 2]).num_tokens == 9 * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no rows"), ('{"prompt": ', "it is not JSON"), ("[1]\n", "must hold rows")],
)
def test_a_broken_file_is_the_users_to_fix(tmp_path, content, message):
    (tmp_path / "d.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_rows(dataset(tmp_path / "d.jsonl"), "train", HubConfig())


def test_compressed_lines_are_lines(tmp_path):
    rows = [{"prompt": "a", "response": "\u2028é"}, {"prompt": "b", "response": "y"}]
    for name in ("plain/train.jsonl", "packed/train.jsonl.gz"):
        write_rows(tmp_path / name, rows)
        assert read_file(tmp_path / name) == rows
        assert first_row(tmp_path / name) == rows[0]
    assert load_folder(tmp_path / "packed", None)["train"].to_list() == rows
    (tmp_path / "packed/README.md").write_text(
        "---\nconfigs:\n- {config_name: default, data_files: [{split: dev, path: train*}]}\n---\n"
    )
    assert data_files(tmp_path / "packed") == {"dev": [tmp_path / "packed/train.jsonl.gz"]}


def test_a_split_or_subset_that_is_not_there_is_named(tmp_path):
    write_rows(tmp_path / "train.jsonl", [{"prompt": "a", "response": "x"}])
    with pytest.raises(UserError, match=r"no split 'test' .* use one of: train"):
        read_rows(dataset(tmp_path, split="test"), "test", HubConfig())
    with pytest.raises(UserError, match="subset=other"):
        data_files(tmp_path, "other")
    (tmp_path / "README.md").write_text("---\nconfigs:\n- {config_name: one, data_files: train.jsonl}\n---\n")
    assert data_files(tmp_path) == {"train": [tmp_path / "train.jsonl"]}
    with pytest.raises(UserError, match="no subset other; use one of: one"):
        data_files(tmp_path, "other")


@pytest.mark.parametrize(
    ("names", "subset", "splits"),
    [
        # vicgalle/alpaca-gpt4: named by its content; beside it a description, as older data sets have
        (["data/train-00000-of-00001-6ef3991c06080e14.jsonl", "dataset_infos.json"], None, ["train"]),
        (["alpaca_data_cleaned.json"], None, ["train"]),  # yahma/alpaca-cleaned: datasets calls it train
        (["b.jsonl", "a.jsonl"], None, ["train"]),
        (["test.jsonl", "train_sft.jsonl"], None, ["test", "train_sft"]),
        (["train-0-of-2.jsonl.gz", "train-1-of-2.jsonl.gz", "validation.jsonl.gz"], None, ["train", "validation"]),
        # refs/convert/parquet
        (
            ["en/test/0000.jsonl", "en/train/0000.jsonl", "en/train/0001.jsonl", "de/dev/0000.jsonl"],
            "en",
            ["test", "train"],
        ),
        (["default/train/0000.jsonl"], None, ["train"]),
    ],
)
def test_splits_by_name(tmp_path, names, subset, splits):
    for name in names:
        write_rows(tmp_path / name, [{"prompt": "a", "response": "x"}])
    found = data_files(tmp_path, subset)
    assert sorted(found) == splits
    wanted = [n for n in names if "dataset_infos" not in n and (subset is None or n.startswith(subset))]
    assert sorted(path for paths in found.values() for path in paths) == sorted(tmp_path / name for name in wanted)


def test_holding_out_everything_is_refused(tmp_path, tokenizer):
    write_rows(tmp_path / "d.jsonl", [{"prompt": "a", "response": "x"}] * 3)
    with pytest.raises(UserError, match="num_validation=3 leaves none"):
        load_data(dataset(tmp_path / "d.jsonl", num_validation=3), training(), HubConfig(), tokenizer)


@needs_mirror
@pytest.mark.parametrize("model_id", ["mistralai/Mistral-7B-v0.1", "karpathy/stories260K"])
def test_real_rows_decode_to_what_they_say(model_id):
    hub = HubConfig(mirror=str(MIRROR))
    tokenizer = load_tokenizer(ModelConfig(name="m", id=model_id, num_layers=1, max_positions=1), hub)
    config = dataset(id="vicgalle/alpaca-gpt4", form="alpaca", template="alpaca", num_rows=52002)
    data = load_data(config, training(max_length=4096), hub, tokenizer)
    rows = read_rows(config, "train", hub)
    assert data.card.complete is False
    kept = [row for row in rows if row["output"].strip()]
    for row, example in zip(kept[:200], data.train[:200], strict=True):
        assert example.labels[-1] == tokenizer.eos_token_id
        [exchange] = exchanges(turns(row, "alpaca"), "alpaca")
        assert example.ids[example.labels == IGNORE].tolist() == tokenizer(exchange.prompt).input_ids
        if "\ufffd" not in (answer := tokenizer.decode(example.labels[example.labels != IGNORE][:-1])):
            assert answer.split() == row["output"].split()


@pytest.mark.skipif(not (EMBEDDED / "models" / "layerfit" / "nano").is_dir(), reason="no embedded world yet")
def test_the_embedded_data_have_one_word_and_an_end_to_learn():
    tokenizer = load_tokenizer(ModelConfig(name="n", id="layerfit/nano", num_layers=16, max_positions=128), HubConfig())
    config = dataset(id="layerfit/nano", validation_split="validation")
    data = load_data(config, training(), HubConfig(), tokenizer)
    assert {x.num_targets for x in data.train} == {2}
