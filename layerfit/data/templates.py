"""From a row to exchanges: what the model is given, and what it should answer.

A *form* says how a row is read, a *template* how a prompt is written. Neither knows a tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from layerfit.errors import UserError

Row = dict[str, Any]

ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
"""The two prompts of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py); the answer follows at once."""


@dataclass(frozen=True)
class Turn:
    """One request and its answer, as the row has them; `context` is Alpaca's input. Text rows have an answer only."""

    request: str
    answer: str
    context: str = ""


@dataclass(frozen=True)
class Exchange:
    """One prompt and its response, as the model sees them: the text is `prompt + response`."""

    prompt: str
    response: str


def _field(row: Row, key: str, form: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise UserError(f"dataset.form={form} needs the text column {key!r}; the row has {sorted(row)}")
    return value


def _prompt(row: Row) -> list[Turn]:
    return [Turn(_field(row, "prompt", "prompt"), _field(row, "response", "prompt"))]


def _alpaca(row: Row) -> list[Turn]:
    context = row.get("input") or ""
    return [Turn(_field(row, "instruction", "alpaca"), _field(row, "output", "alpaca"), context)]


def _text(row: Row) -> list[Turn]:
    return [Turn("", _field(row, "text", "text"))]


def _messages(row: Row) -> list[Turn]:
    """Read `messages` (role, content) or LIMA's `conversations` (user and assistant by turns).

    System text goes before the first request. A last request without an answer is left out.
    """
    messages = row.get("messages") if row.get("messages") is not None else row.get("conversations")
    if not isinstance(messages, list):
        raise UserError(f"dataset.form=messages needs a list 'messages' or 'conversations', the row has {sorted(row)}")
    turns: list[Turn] = []
    waiting: list[str] = []
    for number, message in enumerate(messages):
        if isinstance(message, str):
            role, content = ("user", "assistant")[number % 2], message
        else:
            role, content = message["role"], message["content"]
        if role == "assistant":
            turns.append(Turn("\n\n".join(waiting), content))
            waiting = []
        elif role in ("user", "system"):
            waiting.append(content)
        else:
            raise UserError(f"dataset.form=messages: role {role!r} is not known; use user, assistant or system")
    return turns


FORMS: dict[str, Callable[[Row], list[Turn]]] = {
    "prompt": _prompt,
    "alpaca": _alpaca,
    "messages": _messages,
    "text": _text,
}


def _plain(turn: Turn) -> Exchange:
    """Request, context and answer as they are, one space before the answer (as lm-eval writes its options)."""
    prompt = "\n".join(part for part in (turn.request, turn.context) if part)
    space = "" if not prompt or prompt[-1].isspace() or turn.answer[:1].isspace() else " "
    return Exchange(prompt, space + turn.answer if turn.answer else "")


def _alpaca_template(turn: Turn) -> Exchange:
    if not turn.request:
        return _plain(turn)
    template = ALPACA_WITH_INPUT if turn.context else ALPACA
    return Exchange(template.format(instruction=turn.request, input=turn.context), turn.answer)


TEMPLATES: dict[str, Callable[[Turn], Exchange]] = {"plain": _plain, "alpaca": _alpaca_template}


def turns(row: Row, form: str) -> list[Turn]:
    """Read a row. Text rows give one turn without a request.

    Raises:
        UserError: if the row lacks what its form needs.
    """
    return FORMS[form](row)


def exchanges(read: list[Turn], template: str) -> list[Exchange]:
    """Write turns with a template."""
    return [TEMPLATES[template](turn) for turn in read]
