"""Running text: documents and lines as one stream of tokens, cut into pieces."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig, TrainingConfig
from layerfit.data import load_data
from layerfit.data.tokenise import IGNORE, Example, pieces
from layerfit.errors import UserError
from layerfit.models.hub import EMBEDDED, load_tokenizer

MIRROR = Path(__file__).resolve().parents[3] / "shared" / "hub"
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no mirror at {MIRROR}")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ModelConfig(name="n", id="layerfit/nano", num_layers=16, max_positions=128), HubConfig())


def dataset(path, form, **extra):
    defaults = {"name": "t", "id": "local", "path": str(path), "form": form, "template": "plain", "seed": 0}
    return DatasetConfig(**defaults | extra)


def training(**extra):
    return TrainingConfig(**{"max_steps": 1, "batch_size": 4, "max_length": 8} | extra)


def document(*ids):
    return Example(np.array(ids, np.int32), np.array([IGNORE, *ids[1:]], np.int32))


def test_pieces_by_hand():
    found = pieces([document(1, 2, 3), document(4, 5), document(6, 7)], 3)
    assert [x.ids.tolist() for x in found] == [[1, 2, 3], [4, 5, 6]]  # 7 alone would have no target
    assert [x.labels.tolist() for x in found] == [[IGNORE, 2, 3], [IGNORE, 5, 6]]
    assert [x.ids.tolist() for x in pieces([document(1, 2, 3), document(4, 5)], 3)] == [[1, 2, 3], [4, 5]]
    assert pieces([], 3) == []


def test_documents_are_each_closed_and_nothing_is_lost(tmp_path, tokenizer):
    texts = [f"a{i} " * (3 * i + 1) for i in range(9)] + [""]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = load_data(dataset(tmp_path / "d.jsonl", "auto"), training(), HubConfig(), tokenizer)
    stream = [i for text in texts[:-1] for i in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]
    assert np.concatenate([x.ids for x in data.train]).tolist() == stream[: len(stream) - (len(stream) % 8 == 1)]
    assert {len(x) for x in data.train[:-1]} == {8}
    card = data.card
    assert (card.form, card.template) == ("text", "plain")
    assert (card.rows, card.kept, card.dropped) == (10, 9, {"empty response": 1})
    assert card.examples == len(data.train) == data.num_rows
    assert card.loss_token_share == pytest.approx(1 - len(data.train) / len(stream), abs=0.01)


def test_held_out_documents_are_not_trained_on(tmp_path, tokenizer):
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": f"{i} " * 5}) + "\n" for i in range(10)))
    whole = load_data(dataset(tmp_path / "d.jsonl", "text"), training(), HubConfig(), tokenizer)
    parted = load_data(dataset(tmp_path / "d.jsonl", "text", num_validation=3), training(), HubConfig(), tokenizer)
    count = [sum(len(x) for x in some) for some in (whole.train, parted.train, parted.validation)]
    assert count[0] == pytest.approx(count[1] + count[2], abs=3)
    assert count[2] == pytest.approx(0.3 * count[0], abs=3)
    assert parted.card.dropped == {"held out": 3}


def test_the_loss_is_on_all_of_a_text_whatever_the_mask(tmp_path, tokenizer):
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "a b c d e f g h i j"}) + "\n")
    both = [
        load_data(dataset(tmp_path / "d.jsonl", "text"), training(loss_on_prompt=x), HubConfig(), tokenizer)
        for x in (False, True)
    ]
    assert [x.labels.tolist() for x in both[0].train] == [x.labels.tolist() for x in both[1].train]


def test_lines_are_one_text(tmp_path, tokenizer):
    for split in ("train", "validation"):
        rows = [{"text": text} for text in ("", " = a = \n", "b c", "")]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = dataset(tmp_path, "lines", validation_split="validation")
    data = load_data(config, training(), HubConfig(), tokenizer)
    assert np.concatenate([x.ids for x in data.train]).tolist() == [
        *tokenizer("\n = a = \nb c\n\n").input_ids,
        tokenizer.eos_token_id,
    ]
    assert [x.ids.tolist() for x in data.validation] == [x.ids.tolist() for x in data.train]
    assert (data.card.rows, data.card.kept, data.card.dropped) == (4, 4, {})


def test_nothing_but_blanks_is_refused(tmp_path, tokenizer):
    (tmp_path / "d.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    for form in ("text", "lines"):
        with pytest.raises(UserError, match=r"all responses of its 2 rows are empty"):
            load_data(dataset(tmp_path / "d.jsonl", form), training(), HubConfig(), tokenizer)


@needs_mirror
def test_wikitext_is_what_its_file_says():
    """Against the rows themselves, tokenised by the tokenizer alone."""
    hub = HubConfig(mirror=str(MIRROR))
    model = ModelConfig(name="s", id="karpathy/stories260K", num_layers=5, max_positions=512)
    tokenizer = load_tokenizer(model, hub)
    subset = "wikitext-2-raw-v1"
    config = DatasetConfig(
        name="w",
        id="Salesforce/wikitext",
        subset=subset,
        split="test",
        num_rows=4358,
        form="lines",
        template="plain",
        seed=0,
    )
    data = load_data(config, training(max_length=512), hub, tokenizer)
    [file] = (MIRROR / "datasets/Salesforce/wikitext" / subset).glob("test-*.parquet")
    rows = pq.read_table(file).column("text").to_pylist()
    text = "".join(row or "\n" for row in rows)
    assert np.concatenate([x.ids for x in data.train]).tolist() == [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    assert data.card.rows == len(rows)


@pytest.mark.skipif(not (EMBEDDED / "models" / "layerfit" / "nano").is_dir(), reason="no embedded world yet")
@pytest.mark.parametrize("kind", ["jsonl", "json", "lines.json", "parquet"])
def test_a_local_file_of_any_kind(tmp_path, tokenizer, kind):
    rows = [{"instruction": f"say {i}", "input": "", "output": f"{i}"} for i in range(5)]
    path = tmp_path / f"d.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(dataset(path, "auto", template="auto"), training(max_length=64), HubConfig(), tokenizer)
    assert (data.card.form, data.card.template, data.card.kept) == ("alpaca", "alpaca", 5)
    assert "form alpaca, template alpaca" in data.about
    assert "5 read, 5 kept" in data.about


def test_the_row_that_is_wrong_is_named(tmp_path, tokenizer):
    rows = [{"prompt": "a", "response": "b"}] * 2 + [{"prompt": "a", "answer": "b"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"d.jsonl:3: dataset.form=prompt needs the text column 'response'"):
        load_data(dataset(tmp_path / "d.jsonl", "auto"), training(), HubConfig(), tokenizer)
