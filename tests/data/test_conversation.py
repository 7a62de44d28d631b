"""Conversations in any order of roles: what is read, what is context, what is counted, what is refused by name."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from layerfit.config.schema import DatasetConfig, HubConfig, TrainingConfig
from layerfit.data import load_data
from layerfit.data.card import fingerprint
from layerfit.data.forms import turns
from layerfit.data.loading import read_split
from layerfit.data.templates import exchanges
from layerfit.data.tokenise import IGNORE, tokenise
from layerfit.data.turns import Notes, Turn
from layerfit.errors import UserError

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"no inputs at {CASES}")
WORDS = ["<unk>", "<s>", "</s>", "q", "r", "a", "b", "hi", "sys"]
EOS, Q, R, A, B, HI, SYS = 2, 3, 4, 5, 6, 7, 8


@pytest.fixture(scope="module")
def tokenizer():
    """One word, one token; no bos."""
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>", unk_token="<unk>", pad_token="<unk>")


def said(*messages, **columns):
    """A row of messages: `u:`, `a:` or `s:` and a text; `a0:` has weight 0."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    out = []
    for message in messages:
        role, _, content = message.partition(":")
        weight = {"weight": int(role[1:])} if role[1:] else {}
        out.append({"role": roles[role[0]], "content": content, **weight})
    return {"messages": out, **columns}


def context(answer, request="", **more):
    return Turn(request, answer, trained=False, **more)


TALKS = {
    "plain": (said("u:q", "a:a", "u:r", "a:b"), [Turn("q", "a"), Turn("r", "b")], {}),
    "system": (said("s:sys", "u:q", "a:a"), [Turn("q", "a", system="sys")], {}),
    "a system column": (said("u:q", "a:a", system="sys"), [Turn("q", "a", system="sys")], {}),
    "both": (said("s:two", "u:q", "a:a", system="one"), [Turn("q", "a", system="one\n\ntwo")], {}),
    "no tools": (said("u:q", "a:a", tools="[]"), [Turn("q", "a")], {}),
    "two answers": (said("u:q", "a:a", "a:b"), [Turn("q", "a\n\nb")], {"answers in a row joined": 1}),
    "two requests": (said("u:q", "u:r", "a:a"), [Turn("q\n\nr", "a")], {"requests in a row joined": 1}),
    "a greeting": (said("a:hi", "u:q", "a:a"), [context("hi"), Turn("q", "a")], {"greeting kept as context": 1}),
    "two greetings": (
        said("a:hi", "a:hi", "u:q", "a:a"),
        [context("hi\n\nhi"), Turn("q", "a")],
        {"greeting kept as context": 1, "answers in a row joined": 1},
    ),
    "a greeting that the system asks for": (said("s:sys", "a:hi"), [Turn("", "hi", system="sys")], {}),
    "weights": (said("u:q", "a0:a", "u:r", "a1:b"), [context("a", "q"), Turn("r", "b")], {}),
    "an empty request": (
        said("u:q", "a:a", "u: ", "a:b"),
        [Turn("q", "a\n\nb")],
        {"empty request": 1, "answers in a row joined": 1},
    ),
    "an empty answer": (
        said("u:q", "a: ", "u:r", "a:a"),
        [Turn("q\n\nr", "a")],
        {"empty answer": 1, "requests in a row joined": 1},
    ),
    "nothing asked at first": (
        said("u:", "a:hi"),
        [context("hi")],
        {"empty request": 1, "greeting kept as context": 1},
    ),
    "a request that waits": (said("u:q", "a:a", "u:r"), [Turn("q", "a")], {"request without an answer": 1}),
    "a system text that waits": (said("u:q", "a:a", "s:sys"), [Turn("q", "a")], {"system text without an answer": 1}),
    "a late system text": (
        said("u:q", "s:sys", "a:a"),
        [Turn("q", "a", system="sys")],
        {"system text moved before its request": 1},
    ),
    "nothing": ({"messages": []}, [], {}),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
            "system": "sys",
        },
        [Turn("q", "a", system="sys")],
        {},
    ),
    "LIMA": ({"conversations": ["q", "a", "r", "b"]}, [Turn("q", "a"), Turn("r", "b")], {}),
    "columns that Parquet fills with null": (
        {"messages": [{"role": "user", "content": "q", "tool_calls": None, "weight": None}]} | {"tools": None},
        [],
        {"request without an answer": 1},
    ),
}


@pytest.mark.parametrize("case", TALKS)
def test_nothing_of_a_conversation_is_lost_without_being_counted(case):
    row, expected, changes = TALKS[case]
    notes = Notes()
    assert turns(row, "messages", notes) == expected
    assert {reason: number for reason, number in notes.changes.items() if number} == changes
    assert not notes.unread


ALPACA = {"instruction": "q", "input": "", "output": "a"}


def test_the_history_and_system_text_of_alpaca_are_read():
    row = ALPACA | {"system": "sys", "history": [["r", "b"], ["q", "b"]]}
    assert turns(row, "alpaca") == [Turn("r", "b", system="sys"), Turn("q", "b"), Turn("q", "a")]
    assert turns(ALPACA | {"system": "sys", "history": []}, "alpaca") == [Turn("q", "a", system="sys")]
    assert turns(ALPACA | {"system": None, "history": None}, "alpaca") == turns(ALPACA, "alpaca") == [Turn("q", "a")]
    notes = Notes()
    turns(ALPACA | {"history": [["r", ""]], "output": " "}, "alpaca", notes)
    assert notes.changes["empty answer"] == 1
    assert notes.changes["request without an answer"] == 1


CALL = [{"type": "function", "function": {"name": "f"}}]
REFUSED = {
    "tools": (said("u:q", "a:a", tools='[{"name": "f"}]'), "the row has 'tools': calls of tools are not read"),
    "tools of alpaca": (ALPACA | {"tools": "[{}]"}, "form=alpaca: the row has 'tools'"),
    "tool calls": ({"messages": [{"role": "assistant", "content": None, "tool_calls": CALL}]}, "0 has 'tool_calls'"),
    "tool calls beside text": (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": CALL}]},
        "message 0 has 'tool_calls': .* leave such rows out",
    ),
    "a function call": (
        {"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]},
        "'function_call'",
    ),
    "a tool's message": ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool': calls of tools"),
    "an observation": ({"conversations": [{"from": "observation", "value": "x"}]}, "role 'observation': calls"),
    "an unknown role": ({"messages": [{"role": "bot", "content": "x"}]}, "role 'bot' is not known; use user"),
    "no content": ({"messages": [{"role": "user"}]}, "message 0 needs strings .*; content is null"),
    "content in parts": ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content is a list"),
    "half a weight": ({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}, "weight=0.5; only 0 and 1"),
    "weight of a request": ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "weight=1; .* of assistant"),
    "two weights": (said("u:q", "a0:a", "a1:b"), "two answers in a row have different weights"),
    "JSON as text": ({"messages": "[]"}, "here it is text; write a list of messages, not its JSON as text"),
    "a system that is a list": (said("u:q", "a:a", system=["x"]), "column 'system'; here it is a list"),
    "half a surrogate pair": (said("u:q", "a:\ud83d"), "message 1 has half of a surrogate pair"),
    "a message that is a number": ({"messages": [3]}, "message 0 needs .*; it is a number"),
    "history that is text": (ALPACA | {"history": "r b"}, "'history' must be a list of pairs"),
    "history of three": (ALPACA | {"history": [["a", "b", "c"]]}, "'history' must be a list of pairs"),
    "history of numbers": (ALPACA | {"history": [["a", 3]]}, r"'history \(assistant\)'; here it is a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused_by_name(case):
    row, expected = REFUSED[case]
    with pytest.raises(UserError, match=expected) as error:
        turns(row, "alpaca" if "instruction" in row else "messages")
    assert "\n" not in str(error.value)


def test_context_is_not_a_target(tokenizer):
    rows = [said("a:hi", "u:q", "a:a"), said("u:q", "a0:b", "u:r", "a:a"), said("a:hi")]
    written = [exchanges(turns(row, "messages"), "plain") for row in rows]
    for loss_on_prompt in (False, True):
        [greeting, weights], dropped = tokenise(written, tokenizer, 64, loss_on_prompt=loss_on_prompt)
        assert dropped == {"no target": 1}
        assert greeting.ids.tolist() == [HI, EOS, Q, A, EOS]
        assert weights.ids.tolist() == [Q, B, EOS, R, A, EOS]
        targets = [IGNORE, IGNORE, Q if loss_on_prompt else IGNORE, A, EOS]
        assert greeting.labels.tolist() == targets
        asked = R if loss_on_prompt else IGNORE
        assert weights.labels.tolist() == [IGNORE, IGNORE, IGNORE, asked, A, EOS]


def test_a_greeting_does_not_take_the_header_of_a_template():
    greeting, first, later = exchanges(turns(said("a:hi", "u:q", "a:a", "u:r", "a:b"), "messages"), "alpaca")
    assert (greeting.prompt, greeting.response, greeting.trained) == ("", "hi", False)
    assert first.prompt.startswith("Below is an instruction")
    assert later.prompt == "### Instruction:\nr\n\n### Response:"


def test_the_fingerprint_of_plain_turns_is_as_ever_and_context_changes_it():
    plain = [[Turn("q", "a"), Turn("r", "b", "c", "sys")]]
    assert fingerprint(plain) == "833f381072242cd4"  # what the version before this field gave
    assert fingerprint([[Turn("q", "a", trained=False), *plain[0][1:]]]) != fingerprint(plain)


def test_the_card_says_what_was_changed_and_which_columns_nobody_reads(tmp_path, tokenizer):
    rows = [said("a:hi", "u:q", "a:a", source="x"), said("u:q", "u:r", "a:a", note=None), said("u:q")]
    rows[0]["messages"][0]["name"] = "x"
    for number in range(2):
        (tmp_path / f"{'ab'[number]}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = DatasetConfig(name="t", id="none", path=str(tmp_path), form="auto", template="plain", seed=0)
    data = load_data(dataset, TrainingConfig(max_steps=1, batch_size=1, max_length=16), HubConfig(), tokenizer)
    assert data.card.unread_columns == ["messages.name", "source"]
    assert data.card.dropped_turns == {
        "greeting kept as context": 2,
        "request without an answer": 2,
        "requests in a row joined": 2,
    }
    assert data.card.dropped == {"empty response": 2}
    assert "files (rows): a.jsonl (3), b.jsonl (3)" in data.about
    assert "changed while reading: greeting kept as context: 2; request without an answer: 2; " in data.about
    assert "columns that nobody reads: messages.name, source" in data.about


def test_names_of_columns_fit_a_line_of_the_log(tmp_path, tokenizer):
    odd = {"a\nb": 1, "\ud83d": 1, "x" * 1000: 1} | {f"c{number:03}": 1 for number in range(100)}
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "q", "response": "a"} | odd) + "\n")
    dataset = DatasetConfig(name="t", id="none", path=str(tmp_path), form="auto", template="plain", seed=0)
    data = load_data(dataset, TrainingConfig(max_steps=1, batch_size=1, max_length=16), HubConfig(), tokenizer)
    names = data.card.unread_columns
    assert len(names) == 51
    assert {"a\\nb", "\\ud83d", "and 53 more"} <= set(names)
    data.about.encode()
    assert max(map(len, data.about.splitlines())) < 1000


def read_case(name):
    dataset = DatasetConfig(name="t", id="none", path=str(CASES / name), form="auto", template="auto")
    return read_split(dataset, "train", HubConfig())


@needs_cases
def test_the_conversations_that_went_wrong():
    history = read_case("05-history-and-system/alpaca.jsonl").read[0]
    assert [(t.system, t.request, t.answer) for t in history] == [
        ("You answer in one word.", "Name a country.", "Italy."),
        ("", "A river of it?", "Tiber."),
        ("", "And its capital?", "Rome."),
    ]
    assert [t.trained for t in read_case("05-history-and-system/messages-weight.jsonl").read[0]] == [False, True]
    for name in ("05-history-and-system/messages-system", "20-tool-calls/d", "20-tool-calls/empty-content"):
        with pytest.raises(UserError, match=r"jsonl:1: .*calls of tools are not read"):
            read_case(f"{name}.jsonl")
    assert read_case("25-roles-in-a-row/null-messages.jsonl").how[0] == "alpaca"
    assert read_case("25-roles-in-a-row/lima-odd.jsonl").notes.changes["empty request"] == 24
