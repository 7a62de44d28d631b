"""Tokens that a tokenizer does not know: counted in the data card, warned of, and refused where most are unknown."""

import dataclasses
import json

import pytest

from layerfit.config import compose, composer
from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig, TrainingConfig
from layerfit.data import load_data, loading
from layerfit.data.card import check_known, unknown_share
from layerfit.data.tokenise import Example
from layerfit.errors import UserError
from layerfit.models.hub import load_tokenizer
from layerfit.run.loading import load
from tests.data.test_loading import tokenizer as words

tokenizer = words
NANO = ModelConfig(name="n", id="layerfit/nano", num_layers=16, max_positions=128)


def card_of(path, rows, tokenizer, cache=None):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DatasetConfig(name="d", id="local", path=str(path), form="prompt", template="plain", seed=0)
    training = TrainingConfig(max_steps=1, batch_size=4, max_length=16)
    return load_data(data, training, HubConfig(), tokenizer, cache)


def test_unknown_tokens_are_counted_by_hand(tmp_path, tokenizer):
    """<s> a q x </s>, twice without q: of 13 tokens one is unknown. That <unk> pads as well counts for nothing."""
    rows = [{"prompt": "a q", "response": "x"}, *[{"prompt": "a", "response": "x"}] * 2]
    assert tokenizer.pad_token_id == tokenizer.unk_token_id
    found = card_of(tmp_path / "d.jsonl", rows, tokenizer)
    assert found.batch([0, 1]).input_ids.tolist()[1][-1] == tokenizer.pad_token_id
    assert found.card.unknown_token_share == pytest.approx(1 / 13, abs=1e-6)
    assert "7.7% of them unknown to the tokenizer" in found.about
    assert "warning: 7.7%" in found.about
    few = [*rows, *[{"prompt": "a b c d", "response": "x y z"}] * 20]
    assert "warning" not in card_of(tmp_path / "d.jsonl", few, tokenizer).about
    known = card_of(tmp_path / "d.jsonl", rows[1:], tokenizer)
    assert known.card.unknown_token_share == 0.0
    assert "all known to the tokenizer" in known.about


def test_kept_tokens_are_counted_too(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(loading, "MIN_CHARACTERS", 0)
    rows = [{"prompt": "a q", "response": "x"}]
    made, kept = (card_of(tmp_path / "d.jsonl", rows, tokenizer, tmp_path / "cache").card for _ in range(2))
    assert made == kept
    assert kept.unknown_token_share == 0.2
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("same_as", ["bos_token", "eos_token", None])
def test_a_tokenizer_without_an_unknown_token_of_its_own_has_none(same_as):
    """GPT-2's kind names its end of text as unknown token, and never uses it for that."""
    import numpy as np

    found = load_tokenizer(NANO, HubConfig())
    ids = np.array([found.bos_token_id, found.unk_token_id, found.eos_token_id], np.int32)
    assert unknown_share([Example(ids, ids)], found) == pytest.approx(1 / 3, abs=1e-6)
    found.unk_token = None if same_as is None else getattr(found, same_as)
    assert unknown_share([Example(ids, ids)], found) == 0.0


def test_the_embedded_world_knows_its_own_words():
    training = TrainingConfig(max_steps=1, batch_size=4, max_length=16)
    own = DatasetConfig(
        name="nano", id="layerfit/nano", form="prompt", template="plain", validation_split="validation", seed=0
    )
    assert load_data(own, training, HubConfig(), load_tokenizer(NANO, HubConfig())).card.unknown_token_share == 0.0


def test_a_run_on_words_that_the_model_does_not_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "Name the capital of France. Answer: ", "response": "It is Paris, on the Seine."}
    (tmp_path / "english.jsonl").write_text((json.dumps(row) + "\n") * 4)
    words = ["dataset=local", "dataset.path=english.jsonl", "training.max_length=64", "training.max_steps=1"]
    with composer():
        full, vanilla = (compose([*words, f"method={name}"]) for name in ("full", "vanilla"))
    with pytest.raises(UserError, match=r"\d\d% of the tokens of dataset=local are unknown .* model=nano, .*; use a"):
        load(full)
    card = load(vanilla).data.card  # it trains on nothing
    assert card.unknown_token_share > 0.5
    check_known(dataclasses.replace(card, unknown_token_share=0.5), "d", "m")
    check_known(dataclasses.replace(card, unknown_token_share=None), "d", "m")
