"""Strided perplexity equals a plain loop over windows, and is measured whole or said to be cut."""

import json
import math

import pytest
import torch

from layerfit.config.schema import EvalConfig, HubConfig, ModelConfig, TaskConfig
from layerfit.errors import UserError
from layerfit.evaluation.perplexity import chunks, evaluate, negative_log_likelihood
from layerfit.models.hub import load_model, load_tokenizer
from tests.helpers.tiny import VOCAB, tiny_llama

NANO = ModelConfig(name="nano", id="layerfit/nano", num_layers=16, max_positions=128)
ROWS = ["", " = A title = \n", " Some words about a town and its people , and more . \n" * 12, ""]


def config(**extra):
    return EvalConfig(name="t", tasks=[TaskConfig(name="wikitext_ppl", protocol="perplexity")], **extra)


def plain_loop(model, ids, window, stride):
    """Nats of every predicted token, window by window, each token scored in the first window that holds it."""
    found, scored = [], 1  # nothing predicts the first token
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin:end]])).logits[0].double().log_softmax(-1)
        found += [-float(logits[i - 1 - begin, ids[i]]) for i in range(scored, end)]
        scored = end
        if end == len(ids):
            return found


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("length", [2, 8, 15, 16, 17, 45, 64])
def test_it_equals_a_plain_loop_over_windows(length, stride):
    model = tiny_llama().eval()
    ids = torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    with torch.no_grad():
        total = negative_log_likelihood(model, ids, chunks(length, 16, stride), 3, "cpu")
    nats = plain_loop(model, ids, 16, stride)
    assert len(nats) == length - 1
    assert total == pytest.approx(sum(nats), rel=1e-5)


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "datasets/Salesforce/wikitext/wikitext-2-raw-v1"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    return HubConfig(mirror=str(tmp_path), offline=True)


def test_a_text_of_the_hub(hub):
    model, tokenizer = load_model(NANO, hub, "fp32"), load_tokenizer(NANO, hub)
    scores, items = evaluate(model, tokenizer, config(batch_size=2), hub, "cpu")
    text = "\n\n".join(ROWS)
    ids = tokenizer(text)["input_ids"]
    nats = sum(plain_loop(model, ids, 128, 64))
    value = {score.metric: score.value for score in scores}
    assert value["token_perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-5)
    assert value["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
    assert items == {}
    assert all(score.num_items == score.num_available == math.ceil(len(ids) / 64) for score in scores)
    assert not any(score.higher_is_better or score.data_complete for score in scores)  # 4 rows are not 4,358


def test_a_limit_shows(hub):
    model, tokenizer = load_model(NANO, hub, "fp32"), load_tokenizer(NANO, hub)
    [bits, _] = sorted(evaluate(model, tokenizer, config(limit=1), hub, "cpu")[0], key=lambda score: score.metric)
    [whole, _] = sorted(evaluate(model, tokenizer, config(), hub, "cpu")[0], key=lambda score: score.metric)
    assert (bits.num_items, bits.num_available) == (1, whole.num_available)
    assert bits.docs != whole.docs
    assert bits.value == pytest.approx(whole.value, rel=0.5)  # the bytes of what was read alone


def test_what_is_missing_is_named(hub, tmp_path):
    (tmp_path / "datasets/Salesforce/wikitext/wikitext-2-raw-v1/test.jsonl").write_text('{"page": "x"}\n')
    model, tokenizer = load_model(NANO, hub, "fp32"), load_tokenizer(NANO, hub)
    with pytest.raises(UserError, match="needs the column 'text' of Salesforce/wikitext; it has page"):
        evaluate(model, tokenizer, config(), hub, "cpu")
    with pytest.raises(UserError, match="has no text 'wikitext'; use one of: wikitext_ppl"):
        evaluate(model, tokenizer, EvalConfig(name="t", tasks=[TaskConfig(name="wikitext")]), hub, "cpu")
