"""Sharing what requests have in common changes no number: everything is held against lm-eval's own class."""

import itertools
import logging
import random
from dataclasses import replace

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from layerfit.config.schema import EvalConfig
from layerfit.evaluation.lm_eval import prefix_forward
from layerfit.evaluation.lm_eval.prefix import SharedPrefixLM, language_model
from layerfit.evaluation.lm_eval.prefix_forward import unsupported

VOCAB, LENGTH = 40, 48
SHAPE = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA = SHAPE | {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": LENGTH}


def llama(**extra):
    return made(LlamaForCausalLM, LlamaConfig(**LLAMA | {"initializer_range": 0.3} | extra))


def made(cls, config):
    torch.manual_seed(0)
    config.use_cache = False  # as hub.load_model leaves it
    return cls(config).eval()


@pytest.fixture(scope="module")
def tokenizer():
    words = {"<unk>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, VOCAB)}}
    base = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def model():
    return llama()


def pair(model, tokenizer, batch_size=4, keeps=True):
    """(ours, lm-eval's own). With `keeps`, ours keeps every common beginning, as if a forward pass began at once."""
    settings = {"pretrained": model, "tokenizer": tokenizer, "batch_size": batch_size}
    ours = SharedPrefixLM(**settings)
    if keeps:
        cost = ours.cost
        ours.cost = lambda longest: replace(cost(longest), per_call=0, max_base=1000)
    return ours, HFLM(**settings)


def draw(rng, low, high):
    return [rng.randrange(2, VOCAB) for _ in range(rng.randint(low, high))]


def suite(seed, *, subjects=2, shots=(8, 20), questions=5, question=(1, 6), answers=(1, 4), kinds=(1, 4)):
    """Token requests of some subjects, shuffled: shots, questions, and answers of one or more tokens."""
    rng = random.Random(seed)
    found = []
    for _ in range(subjects):
        begin = draw(rng, *shots)
        for _ in range(questions):
            context = begin + draw(rng, *question)
            kind = rng.choice(kinds)
            options = [draw(rng, 1, 1) if kind == 1 else draw(rng, *answers) for _ in range(4)]
            found += [(None, context, option) for option in options]
    rng.shuffle(found)
    return found


def distance(model, tokenizer, requests, batch_size=4, keeps=True):
    """Largest difference of log-likelihoods from lm-eval's own class; the greedy flags must be equal."""
    ours, stock = pair(model, tokenizer, batch_size, keeps)
    mine, theirs = (lm._loglikelihood_tokens(list(requests), disable_tqdm=True) for lm in (ours, stock))
    assert [type(part) for answer in mine for part in answer] == [float, bool] * len(requests)
    far = max(abs(a[0] - b[0]) for a, b in zip(mine, theirs, strict=True))
    if far < 1e-3:
        assert [a[1] for a in mine] == [b[1] for b in theirs]
    return far


CASES = {
    "subjects with shots": suite(1),
    "one-token answers": suite(2, kinds=(1,), questions=9),
    "long answers, no shots": suite(3, shots=(0, 1), answers=(3, 9), kinds=(2,)),
    "cut on the left": suite(4, shots=(40, 47), question=(2, 9), answers=(2, 8)),
    "some cut, some not": suite(5, subjects=3, shots=(30, 46), answers=(1, 9)),
    "nothing shared": suite(6, subjects=12, questions=1),
    "identical requests": suite(7, questions=2) * 3,
    "one request": suite(8)[:1],
    "none": [],
    "as long as the model": [(None, [5], draw(random.Random(9), LENGTH, LENGTH)), (None, [5], [6])],
    "one goes on where another ends": [(None, [3, 4, 5, 6][:n], [7, 8, 9][:m]) for n in (1, 2, 4) for m in (1, 3)],
    "every first token once": [(None, [t, 3, 3], [4, 5]) for t in range(2, 20)],
}


@pytest.mark.parametrize(("batch_size", "keeps"), [(1, True), (3, True), (16, True), (3, False)])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_lm_evals_own(model, tokenizer, case, batch_size, keeps):
    if not (requests := CASES[case]):
        assert pair(model, tokenizer)[0]._loglikelihood_tokens([], disable_tqdm=True) == []
        return
    assert distance(model, tokenizer, requests, batch_size, keeps) < 2e-5


def test_the_cases_above_keep_beginnings_and_grow_branches(model, tokenizer):
    seen = []
    for case, keeps in itertools.product(CASES.values(), [True, False]):
        ours, _ = pair(model, tokenizer, keeps=keeps)
        keep, forward = ours.keep, ours.log_probabilities
        ours.keep = lambda tokens, keep=keep: (seen.append("base"), keep(tokens))[1]
        ours.log_probabilities = lambda batch, base, asked, forward=forward: (
            seen.append((base is not None, any(row.branches for row in batch.trees), len(batch.trees) > 1)),
            forward(batch, base, asked),
        )[1]
        ours._loglikelihood_tokens(case, disable_tqdm=True)
    assert set(seen) >= {"base", *itertools.product([True, False], repeat=3)}


def test_greedy_answers_occur(model, tokenizer):
    """Or the comparison of the flags would say nothing."""
    _, stock = pair(model, tokenizer)
    likely = stock._model_call(torch.tensor([[5, 6, 7]]))[0, -1].argmax().item()
    requests = [(None, [5, 6, 7], [likely]), (None, [5, 6, 7], [likely, 3]), (None, [5, 6, 7], [3])]
    ours, _ = pair(model, tokenizer)
    assert [greedy for _, greedy in ours._loglikelihood_tokens(requests, disable_tqdm=True)] == [True, False, False]
    assert distance(model, tokenizer, requests) < 2e-5


def test_texts_and_the_cache_hook(model, tokenizer):
    asked = [
        ("", "w5 w6"),  # no context: the prefix token stands for it
        ("", "w5 w7"),
        ("w3 w4 w5 ", "w6"),  # the trailing space belongs to the answer
        ("w3 w4 w5", " w7 w8"),
        ("w3 w4 w5", " w6"),
        ("w9 w4 w5", " w6"),
    ]
    seen = []
    for lm in pair(model, tokenizer):
        hooked = []
        lm.cache_hook.add_partial = lambda *entry, hooked=hooked: hooked.append(entry)
        requests = [Instance("loglikelihood", {}, text, i) for i, text in enumerate(asked)]
        answers = lm.loglikelihood(requests, disable_tqdm=True)
        assert {entry[1]: entry[2] for entry in hooked} == dict(zip(asked, answers, strict=True))
        assert {entry[0] for entry in hooked} == {"loglikelihood"}
        rolling = [Instance("loglikelihood_rolling", {}, (" ".join(f"w{i % 37 + 2}" for i in range(120)),), 0)]
        seen.append([value for value, _ in answers] + lm.loglikelihood_rolling(rolling, disable_tqdm=True))
    assert seen[0] == pytest.approx(seen[1], abs=2e-5)


def test_one_input_split_in_two_ways_counts_its_own_tokens(model, tokenizer):
    """lm-eval 0.4.13 with its cache of logits reads the shorter answer at the longer one's first token."""
    requests = [(None, [3, 4], [5, 6, 7]), (None, [3, 4, 5, 6], [7])]
    mine = pair(model, tokenizer)[0]._loglikelihood_tokens(requests, disable_tqdm=True)
    exact = HFLM(pretrained=model, tokenizer=tokenizer, logits_cache=False)
    theirs = exact._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [a for a, _ in mine] == pytest.approx([a for a, _ in theirs], abs=2e-5)


def test_an_answer_longer_than_the_model_is_refused(model, tokenizer):
    with pytest.raises(AssertionError, match=f"longer than the model's {LENGTH} positions"):
        pair(model, tokenizer)[0]._loglikelihood_tokens([(None, [3], [4] * (LENGTH + 1))], disable_tqdm=True)


@pytest.mark.parametrize("forgotten", ["base", "branches"])
def test_wrong_positions_show(model, tokenizer, monkeypatch, forgotten):
    filled = prefix_forward._filled

    def wrong(row, width):
        tokens, positions, exits = filled(row, width)
        in_a_line = list(range(positions[0], positions[0] + width))
        return tokens, in_a_line if forgotten == "branches" else [p - positions[0] for p in positions], exits

    monkeypatch.setattr(prefix_forward, "_filled", wrong)
    assert distance(model, tokenizer, suite(1, shots=(30, 30), questions=9, answers=(2, 4))) > 1e-2
    assert unsupported(model) is not None


def test_a_missing_mask_shows(model, tokenizer, monkeypatch):
    mask = prefix_forward._mask
    causal = lambda model, exits, base: mask(model, torch.full_like(exits, exits.shape[1]), base)  # noqa: E731
    monkeypatch.setattr(prefix_forward, "_mask", causal)
    assert distance(model, tokenizer, CASES["long answers, no shots"]) > 1e-2
    assert unsupported(model) is not None


def passes(lm, requests):
    """Tokens that the model is given, padding included, and the most lines of logits of one pass."""
    given, heads = [], []
    hooks = [
        lm.model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: given.append(inputs[0].numel())),
        lm.model.get_output_embeddings().register_forward_hook(lambda _, __, out: heads.append(out[..., 0].numel())),
    ]
    lm._loglikelihood_tokens(requests, disable_tqdm=True)
    for hook in hooks:
        hook.remove()
    return sum(given), max(heads), max(given)


def test_what_is_shared_is_computed_once(tokenizer):
    model = llama(max_position_embeddings=512)
    requests = suite(1, subjects=3, shots=(300, 330), questions=40, question=(5, 9), kinds=(1,))
    ours, stock = pair(model, tokenizer, batch_size=8, keeps=False)
    mine, theirs = passes(ours, requests), passes(stock, requests)
    assert mine[0] < theirs[0] / 15
    assert mine[1] <= 40  # a line of logits a question
    assert mine[2] <= theirs[2]


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (
            GPTJForCausalLM,
            GPTJConfig(vocab_size=VOCAB, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        ),
        (OPTForCausalLM, OPTConfig(ffn_dim=48, max_position_embeddings=LENGTH, word_embed_proj_dim=32, **SHAPE)),
        (MistralForCausalLM, MistralConfig(**LLAMA, sliding_window=12)),
        (MistralForCausalLM, MistralConfig(**LLAMA, sliding_window=None)),
        (LlamaForCausalLM, LlamaConfig(**LLAMA, attn_implementation="eager", tie_word_embeddings=True)),
        (BloomForCausalLM, BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4)),
    ],
)
def test_other_architectures(tokenizer, cls, config, caplog):
    config.initializer_range = config.init_std = 0.3
    model = made(cls, config)
    with caplog.at_level(logging.WARNING, logger="layerfit"):
        lm = language_model(model, tokenizer, EvalConfig(name="t", batch_size=4))
    assert isinstance(lm, SharedPrefixLM) is (cls is not BloomForCausalLM), caplog.text
    if cls is BloomForCausalLM:
        assert (
            "BloomForCausalLM is evaluated by lm-eval's own model class: its forward takes no position_ids"
            in caplog.text
        )
        return
    for case in ("subjects with shots", "some cut, some not"):
        assert distance(model, tokenizer, CASES[case]) < 2e-5


def test_an_adapter_is_heard(tokenizer):
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    lora = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(llama(), lora).eval()
    assert isinstance(language_model(tuned, tokenizer, EvalConfig(name="t")), SharedPrefixLM)
    assert distance(tuned, tokenizer, CASES["subjects with shots"]) < 2e-5
    assert distance(tuned, tokenizer, CASES["subjects with shots"][:4]) < 2e-5
    prompt = get_peft_model(llama(), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    assert "virtual tokens" in unsupported(prompt)


def test_bf16_is_as_far_from_fp32_as_lm_evals_own(model, tokenizer):
    requests = CASES["subjects with shots"]
    exact = [a for a, _ in pair(model, tokenizer)[1]._loglikelihood_tokens(requests, disable_tqdm=True)]
    short = llama().to(torch.bfloat16)
    assert unsupported(short) is None
    far = []
    for lm in pair(short, tokenizer):
        found = [a for a, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]
        far.append(sum(abs(a - b) for a, b in zip(found, exact, strict=True)) / len(exact))
    assert far[0] < 1.5 * far[1]


def test_a_model_that_ignores_what_it_is_given_is_not_trusted(tokenizer, caplog):
    class Deaf(LlamaForCausalLM):
        def forward(self, input_ids, position_ids=None, past_key_values=None, attention_mask=None, use_cache=None):
            del position_ids, attention_mask
            return super().forward(input_ids, past_key_values=past_key_values, use_cache=use_cache)

    model = made(Deaf, LlamaConfig(**LLAMA, initializer_range=0.3))
    assert "apart" in unsupported(model)
    lm = language_model(model, tokenizer, EvalConfig(name="t"))
    assert type(lm) is HFLM
    assert "Deaf is evaluated by lm-eval's own model class" in caplog.text
    dynamic = llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    assert "rotary" in unsupported(dynamic)


def test_the_stock_class_can_be_asked_for(model, tokenizer):
    assert type(language_model(model, tokenizer, EvalConfig(name="t", model_class="stock"))) is HFLM
