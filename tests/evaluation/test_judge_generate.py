"""An answer is a function of weights, prompt and seed; prompts are what training showed the model."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from transformers import GenerationConfig

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import HubConfig, ModelConfig
from layerfit.data.templates import exchanges
from layerfit.data.tokenise import tokenise
from layerfit.data.turns import Turn
from layerfit.evaluation.judge.answers import TEMPERATURES, VICUNA, exchange, prompt_ids, temperature
from layerfit.evaluation.judge.generate import Prompt, _Sampler, generate, weights_digest
from layerfit.models.hub import load_tokenizer
from tests.helpers.tiny import VOCAB, tiny_llama

NANO = ModelConfig(name="nano", id="layerfit/nano", num_layers=16, max_positions=128)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(NANO, HubConfig())


class Numbers:
    """A tokenizer whose text is the numbers of its tokens."""

    eos_token_id, pad_token_id = 1, 2

    def decode(self, ids, **_):
        return " ".join(str(token) for token in ids)


@pytest.fixture(scope="module")
def model():
    return tiny_llama().eval()


def prompts(count, **more):
    generator = torch.Generator().manual_seed(1)
    lengths = [3 + 5 * (n % 4) for n in range(count)]
    return [Prompt(torch.randint(3, VOCAB, (n,), generator=generator).tolist(), **more) for n in lengths]


def by_hand(model, ids, new):
    """Greedy, without cache, batch or padding."""
    out = list(ids)
    for _ in range(new):
        token = int(model(input_ids=torch.tensor([out])).logits[0, -1].argmax())
        if token == Numbers.eos_token_id:
            break
        out.append(token)
    return " ".join(str(token) for token in out[len(ids) :])


@torch.no_grad()
def test_greedy_in_batches_is_greedy_by_hand(model):
    asked = prompts(7)
    found = generate(model, Numbers(), asked, 10, batch_size=3)
    assert [f.text for f in found] == [by_hand(model, p.ids, 10) for p in asked]


@torch.no_grad()
def test_adapters_answer_too(model):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj", "up_proj"])).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.normal_(generator=torch.Generator().manual_seed(0))
    settings = adapted.get_base_model().generation_config
    asked = prompts(4)
    found = [f.text for f in generate(adapted, Numbers(), asked, 10, batch_size=2)]
    assert found == [by_hand(adapted, p.ids, 10) for p in asked]
    assert found != [f.text for f in generate(model, Numbers(), asked, 10, batch_size=2)]
    assert adapted.get_base_model().generation_config is settings


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(model):
    asked = [Prompt(p.ids, 0.7 if n % 3 else 0.0, f"q{n}") for n, p in enumerate(prompts(9))]
    together = generate(model, Numbers(), asked, 10, batch_size=9)
    assert together == [generate(model, Numbers(), [p], 10, batch_size=1)[0] for p in asked]
    assert together == generate(model, Numbers(), asked, 10, batch_size=4)
    other = generate(model, Numbers(), [Prompt(p.ids, p.temperature, p.seed + "!") for p in asked], 10, batch_size=9)
    assert [a == b for a, b in zip(together, other, strict=True)] == [p.temperature == 0 for p in asked]


def test_samples_have_the_probabilities_of_the_temperature():
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampler, draws = _Sampler([Prompt([0], 0.5, "s")]), 4000
    counts = Counter(int(sampler(scores, scores).argmax()) for _ in range(draws))
    for token, share in enumerate(torch.softmax(scores[0] / 0.5, 0).tolist()):
        assert abs(counts[token] / draws - share) < 4 * (share * (1 - share) / draws) ** 0.5 + 1e-9


def test_only_the_fifty_likeliest_are_sampled():
    scores = torch.zeros(1, 200)
    scores[0, 100:150] = 0.1
    sampler = _Sampler([Prompt([0], 1.0, "s")])
    assert {int(sampler(scores, scores).argmax()) for _ in range(600)} == set(range(100, 150))


def test_the_checkpoints_own_settings_do_not_leak_in(model):
    asked = prompts(4)
    clean = generate(model, Numbers(), asked, 10, batch_size=4)
    kept, turn_end = model.generation_config, max((f.text for f in clean), key=len).split()[-1]
    leaky = GenerationConfig(repetition_penalty=5.0, num_beams=3, min_new_tokens=9, eos_token_id=[1, int(turn_end)])
    model.generation_config = leaky
    try:
        found = generate(model, Numbers(), asked, 10, batch_size=4)
        assert model.generation_config is leaky
    finally:
        model.generation_config = kept
    for before, after in zip(clean, found, strict=True):  # that alone is the checkpoint's to say: what ends a turn
        tokens = before.text.split()
        assert after.text.split() == (tokens[: tokens.index(turn_end)] if turn_end in tokens else tokens)


def test_an_answer_stops_at_the_models_last_position(model):
    asked = [Prompt([5] * 60), Prompt([5] * 64), Prompt([5] * 70), Prompt([5] * 10)]
    found = generate(model, Numbers(), asked, 30, batch_size=4)
    lengths = [len(f.text.split()) for f in found]
    assert [f.finish for f in found][1:3] == ["no_room", "no_room"]
    assert lengths[1:3] == [0, 0]
    assert lengths[0] <= 4  # 64 positions
    assert lengths[3] <= 30


def test_the_digest_tells_two_trainings_apart():
    one, two = tiny_llama(), tiny_llama()
    assert weights_digest(one) == weights_digest(two)
    with torch.no_grad():
        two.lm_head.weight[0, 0] += 0.1
    assert weights_digest(one) != weights_digest(two)


@pytest.mark.parametrize("template", ["alpaca", "plain"])
def test_a_conversation_is_the_beginning_of_what_training_saw(tokenizer, template):
    requests, answers = ["sign of sofe ruvoson", "pogo fevason eats"], ["nefesign", "gapabread"]
    turns = [Turn(request, answer) for request, answer in zip(requests, answers, strict=True)]
    (example,), _ = tokenise([exchanges(turns, template)], tokenizer, 4096, loss_on_prompt=False)
    targets = (example.labels != -100).tolist()
    starts = [n for n, (before, now) in enumerate(pairwise(targets), 1) if now and not before]
    for turn, start in enumerate(starts):
        ids = prompt_ids(template, tokenizer, requests[: turn + 1], answers[:turn])
        assert ids == example.ids[:start].tolist()
    assert len(starts) == 2


class Letters:
    """A tokenizer of characters."""

    eos_token_id, chat_template = "</s>", "yes"

    def __call__(self, text, add_special_tokens, **_):
        return type("Encoded", (), {"input_ids": [*(["<s>"] if add_special_tokens else []), *text]})

    def apply_chat_template(self, messages, add_generation_prompt, **_):
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]" * add_generation_prompt


def test_an_empty_answer_is_an_answer(tokenizer):
    for template in ("alpaca", "plain", "vicuna"):
        ids = prompt_ids(template, tokenizer, ["sofe", "eats"], [""])
        first = prompt_ids(template, tokenizer, ["sofe"], [])
        assert ids[: len(first) + 1] == [*first, tokenizer.eos_token_id]
        assert len(ids) > len(first) + 1


def test_vicunas_template_is_the_published_one():
    """docs/vicuna_weights_version.md of FastChat, example prompt of weights v1.1."""
    published = f"{VICUNA} USER: Hello! ASSISTANT: Hello!</s>USER: How are you? ASSISTANT:"
    first, second = exchange("vicuna", 0, "Hello!", "Hello!"), exchange("vicuna", 1, "How are you?")
    assert f"{first.prompt}{first.response}</s>{second.prompt}" == published
    assert second.response == ""
    assert VICUNA.startswith("A chat between a curious user and an artificial intelligence assistant. The assistant")


def test_a_chat_template_writes_the_special_tokens_itself():
    ids = prompt_ids("chat", Letters(), ["a", "b"], ["x"])
    assert "".join(ids) == "[user]a[assistant]x[user]b[assistant]"


def test_alpacas_prompt_is_the_one_of_the_training_data():
    assert exchange("alpaca", 1, "Do it.").prompt.endswith("### Instruction:\nDo it.\n\n### Response:")


def test_temperatures_are_fastchats_or_none():
    fastchat, greedy = JudgeConfig(), JudgeConfig(decoding="greedy")
    assert [temperature(fastchat, c) for c in ("writing", "stem", "math", "fermi")] == [0.7, 0.1, 0.0, 0.7]
    assert {temperature(greedy, c) for c in TEMPERATURES} == {0.0}
