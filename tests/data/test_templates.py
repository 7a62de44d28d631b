"""How rows are read and prompts written: against published text, and against the tokenizer's own chat template."""

import hashlib
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig
from layerfit.data.chat import chat_exchanges, check_chat
from layerfit.data.forms import FORMS, detect_form, resolve, turns
from layerfit.data.templates import Exchange, exchanges
from layerfit.data.tokenise import IGNORE, tokenise
from layerfit.errors import UserError
from layerfit.models.hub import load_tokenizer

MIRROR = Path(__file__).resolve().parents[3] / "shared" / "hub"
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no mirror at {MIRROR}")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
FORGETS = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else '...' }}")
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three\nmore?"},
    {"role": "assistant", "content": "Seven it is."},
]


@pytest.fixture
def tokenizer():
    """One word, one token; the chat markers are special."""
    words = ["<unk>", "<s>", "</s>", "Four", "Seven"]
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]}
    return PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>", **special
    )


def test_the_llm_adapters_prompts_are_the_published_ones():
    """The hashes are of what `generate_prompt` of LLM-Adapters' finetune.py (commit 91770ab) returns."""
    row = {"instruction": "INSTRUCTION", "input": "", "output": "OUTPUT"}
    [without] = exchanges(turns(row, "alpaca"), "llm_adapters")
    [with_input] = exchanges(turns(row | {"input": "INPUT"}, "alpaca"), "llm_adapters")
    assert without.prompt.split("\n") == [
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.  ",
        "",
        " " * 16 + "### Instruction:",
        " " * 16 + "INSTRUCTION",
        " " * 16,
        " " * 16 + "### Response:",
        " " * 16,
    ]
    hashes = [hashlib.sha256((x.prompt + x.response).encode()).hexdigest()[:16] for x in (without, with_input)]
    assert hashes == ["da91fb98d7db374a", "9f395866b8df65f5"]


def test_later_alpaca_turns_do_not_say_the_header_again():
    row = {"conversations": ["a", "x", "b", "y", "without an answer"]}
    first, second = exchanges(turns(row, "messages"), "alpaca")
    assert first.prompt.startswith("Below is an instruction")
    assert second == Exchange("### Instruction:\nb\n\n### Response:", "y")


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        ({"instruction": "", "input": "", "output": "", "text": ""}, "alpaca"),
        ({"prompt": "", "prompt_id": "", "messages": [], "category": ""}, "messages"),
        ({"conversations": [], "source": ""}, "messages"),
        ({"prompt": "", "response": ""}, "prompt"),
        ({"text": ""}, "text"),
    ],
)
def test_the_form_is_told_by_the_columns(columns, form):
    assert detect_form(columns) == resolve("auto", "plain", columns)[0] == form
    assert resolve("auto", "auto", columns)[1] == ("alpaca" if form in ("alpaca", "messages") else "plain")


def test_what_cannot_be_told_is_named():
    with pytest.raises(UserError, match=r"columns \['answer', 'question'\]; forms are .*alpaca: instruction\+output"):
        resolve("auto", "auto", {"question": "", "answer": ""})
    with pytest.raises(UserError, match=r"form=text has no requests for dataset.template=alpaca; use plain"):
        resolve("auto", "alpaca", {"text": ""})
    with pytest.raises(UserError, match=r"message 1 needs strings 'role' and 'content'"):
        turns({"messages": ["hello", {"from": "gpt", "text": "x"}]}, "messages")


def test_the_schema_knows_every_form_and_template():
    for form in (*FORMS, "auto"):
        DatasetConfig(form=form)
    for word in ("form", "template"):
        with pytest.raises(UserError, match=rf"dataset\.{word}='none_such' is not known; use one of: auto"):
            DatasetConfig(**{word: "none_such"})
    with pytest.raises(UserError, match=r"validation_split"):
        DatasetConfig(form="lines", num_validation=3)


@pytest.mark.parametrize(("template", "messages"), [(CHATML, CONVERSATION), (INST, CONVERSATION[1:])])
def test_chat_tokens_are_the_chat_templates_own(tokenizer, template, messages):
    check_as_the_tokenizer_writes(tokenizer, template, messages)


@needs_mirror
@pytest.mark.parametrize(("template", "messages"), [(CHATML, CONVERSATION), (INST, CONVERSATION[1:])])
def test_chat_tokens_are_the_chat_templates_own_with_merges(template, messages):
    model = ModelConfig(name="m", id="mistralai/Mistral-7B-v0.1", num_layers=1, max_positions=1)
    check_as_the_tokenizer_writes(load_tokenizer(model, HubConfig(mirror=str(MIRROR))), template, messages)


def check_as_the_tokenizer_writes(tokenizer, template, messages):
    """All tokens are those of the whole conversation; the targets are what follows each generation prompt."""
    tokenizer.chat_template = template
    read = turns({"messages": messages}, "messages")
    [example], dropped = tokenise([chat_exchanges(read, tokenizer)], tokenizer, 512, loss_on_prompt=False)
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert example.ids.tolist() == whole
    assert not dropped
    targets = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = tokenizer.apply_chat_template(messages[:number], add_generation_prompt=True, return_dict=False)
            told = tokenizer.apply_chat_template(messages[: number + 1], return_dict=False)
            targets += range(len(asked), len(told))
    assert (example.labels != IGNORE).nonzero()[0].tolist() == targets
    assert example.labels[targets].tolist() == [whole[i] for i in targets]


def test_a_truncated_chat_keeps_its_opening_and_a_target(tokenizer):
    tokenizer.chat_template = INST
    read = turns({"messages": CONVERSATION[1:3]}, "messages")
    [example], _ = tokenise([chat_exchanges(read, tokenizer)], tokenizer, 5, loss_on_prompt=False)
    assert tokenizer.convert_ids_to_tokens(example.ids.tolist()) == ["<s>", "[/INST]", "Four", "<unk>", "</s>"]
    assert (example.labels != IGNORE).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template .* set dataset.template=alpaca"),
        (INST, "refuses the roles system, user: only user and assistant"),
        (FORGETS, "changes earlier turns"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_named(tokenizer, template, message):
    tokenizer.chat_template = template

    def write():
        check_chat(tokenizer)
        return chat_exchanges(turns({"messages": CONVERSATION}, "messages"), tokenizer)

    with pytest.raises(UserError, match=message):
        write()


def test_a_chat_without_answers_is_empty(tokenizer):
    tokenizer.chat_template = CHATML
    read = turns({"conversations": ["a", " "]}, "messages")
    assert tokenise([chat_exchanges(read, tokenizer)], tokenizer, 9, loss_on_prompt=False) == (
        [],
        {"empty response": 1},
    )
