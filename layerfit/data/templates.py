"""From a row to exchanges: prompts and responses.

A *form* is the format of a row, a *template* the format of a prompt. Neither needs a tokenizer; the model's own chat
template, which does, is in `layerfit.data.chat`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from layerfit.data.sources import RawRow
from layerfit.errors import UserError

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
"""The two prompts of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py); the answer follows directly."""
ALPACA_NEXT = "### Instruction:\n{instruction}\n\n### Response:"
ALPACA_NEXT_WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
"""A later turn: the header is not repeated (as in FastChat's `alpaca` conversation)."""

_INDENT = "\n" + 16 * " "
LLM_ADAPTERS = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.  \n"
    f"{_INDENT}### Instruction:{_INDENT}{{instruction}}{_INDENT}{_INDENT}### Response:{_INDENT}"
)
LLM_ADAPTERS_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request. \n"
    f"{_INDENT}### Instruction:{_INDENT}{{instruction}}{_INDENT}{_INDENT}### Input:{_INDENT}{{input}}"
    f"{_INDENT}{_INDENT}### Response:{_INDENT}"
)
"""The two training prompts of LLM-Adapters (github.com/AGI-Edgerunners/LLM-Adapters, finetune.py; DoRA has the same).

The text contains the indentation of the Python source, and the header ends with two spaces, or one if there is an
input. The evaluation prompt differs (one space, an empty line before the response); IST's copy has empty lines here
too.
"""


@dataclass(frozen=True)
class Turn:
    """One request and its answer, as in the row. Text rows have an answer only.

    context: Alpaca's input. system: text of the system messages before the request.
    """

    request: str
    answer: str
    context: str = ""
    system: str = ""

    @property
    def asked(self) -> str:
        """System text and request in one, for templates without a system field."""
        return "\n\n".join(part for part in (self.system, self.request) if part)


@dataclass(frozen=True)
class Exchange:
    """One prompt and its response; the model's input is `prompt + response`.

    verbatim: the text contains its special tokens, the tokenizer adds none. The same for all exchanges of a row.
    """

    prompt: str
    response: str
    verbatim: bool = False


def _field(row: RawRow, key: str, form: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise UserError(f"dataset.form={form} needs the text column {key!r}; the row has {sorted(row)}")
    return value


def _prompt(row: RawRow) -> list[Turn]:
    return [Turn(_field(row, "prompt", "prompt"), _field(row, "response", "prompt"))]


def _alpaca(row: RawRow) -> list[Turn]:
    context = row.get("input") or ""
    return [Turn(_field(row, "instruction", "alpaca"), _field(row, "output", "alpaca"), context)]


def _text(row: RawRow) -> list[Turn]:
    return [Turn("", _field(row, "text", "text"))]


def _message(number: int, message: Any) -> tuple[str, str]:
    """Return role and content of a message; plain strings alternate between user and assistant, as in LIMA."""
    if isinstance(message, str):
        return ("user", "assistant")[number % 2], message
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        found = repr(message)[:80]
        raise UserError(f"dataset.form=messages: message {number} needs strings 'role' and 'content'; it is {found}")
    return role, content


def _messages(row: RawRow) -> list[Turn]:
    """Read `messages` (role, content) or LIMA's `conversations` (user and assistant alternating).

    A last request without an answer is left out.
    """
    messages = row.get("messages") if row.get("messages") is not None else row.get("conversations")
    if not isinstance(messages, list):
        raise UserError(f"dataset.form=messages needs a list 'messages' or 'conversations'; the row has {sorted(row)}")
    turns: list[Turn] = []
    waiting: dict[str, list[str]] = {"user": [], "system": []}
    for number, message in enumerate(messages):
        role, content = _message(number, message)
        if role == "assistant":
            request, system = ("\n\n".join(waiting[key]) for key in ("user", "system"))
            turns.append(Turn(request, content, system=system))
            waiting = {"user": [], "system": []}
        elif role in waiting:
            waiting[role].append(content)
        else:
            raise UserError(f"dataset.form=messages: role {role!r} is not known; use user, assistant or system")
    return turns


FORMS: dict[str, Callable[[RawRow], list[Turn]]] = {
    "prompt": _prompt,
    "alpaca": _alpaca,
    "messages": _messages,
    "text": _text,
    "lines": _text,
}
"""Readers of a row, by form. Rows of `text` are documents, rows of `lines` are lines of one document; both are joined
and cut into pieces."""
RUNNING = ("text", "lines")
"""Forms without requests: a stream of tokens, cut into pieces."""
AUTO = "auto"
_COLUMNS = {
    "messages": ({"messages"}, {"conversations"}),
    "alpaca": ({"instruction", "output"},),
    "prompt": ({"prompt", "response"},),
    "text": ({"text"},),
}


def detect_form(row: RawRow) -> str:
    """Return the form of a row by its columns, for `dataset.form=auto`.

    Raises:
        UserError: if no form has these columns.
    """
    for form, choices in _COLUMNS.items():
        if any(columns <= set(row) for columns in choices):
            return form
    known = "; ".join(f"{form}: {' or '.join('+'.join(sorted(c)) for c in cs)}" for form, cs in _COLUMNS.items())
    raise UserError(f"dataset.form=auto recognises no form in the columns {sorted(row)}; forms are {known}")


def resolve(form: str, template: str, row: RawRow) -> tuple[str, str]:
    """Return form and template with `auto` resolved: the form by a row, the template by the form.

    Raises:
        UserError: if the form is not recognised, or is running text, which has no prompts for a template.
    """
    form = detect_form(row) if form == AUTO else form
    plain = form in (*RUNNING, "prompt")
    template = ("plain" if plain else "alpaca") if template == AUTO else template
    if form in RUNNING and template != "plain":
        raise UserError(f"dataset.form={form} has no requests for dataset.template={template}; use plain")
    return form, template


def _plain(turn: Turn) -> Exchange:
    """Return request, context and answer unchanged, with one space before the answer (as lm-eval's options)."""
    prompt = "\n".join(part for part in (turn.asked, turn.context) if part)
    space = "" if not prompt or prompt[-1].isspace() or turn.answer[:1].isspace() else " "
    return Exchange(prompt, space + turn.answer if turn.answer else "")


def _fill(turn: Turn, without: str, with_input: str) -> Exchange:
    if not turn.asked:
        return _plain(turn)
    template = with_input if turn.context else without
    return Exchange(template.format(instruction=turn.asked, input=turn.context), turn.answer)


def _alpaca_template(turn: Turn) -> Exchange:
    return _fill(turn, ALPACA, ALPACA_WITH_INPUT)


def _alpaca_next(turn: Turn) -> Exchange:
    return _fill(turn, ALPACA_NEXT, ALPACA_NEXT_WITH_INPUT)


def _llm_adapters_template(turn: Turn) -> Exchange:
    return _fill(turn, LLM_ADAPTERS, LLM_ADAPTERS_WITH_INPUT)


TEMPLATES: dict[str, Callable[[Turn], Exchange]] = {
    "plain": _plain,
    "alpaca": _alpaca_template,
    "llm_adapters": _llm_adapters_template,
}
LATER = TEMPLATES | {"alpaca": _alpaca_next}
"""Templates of the turns after a row's first."""


def turns(row: RawRow, form: str) -> list[Turn]:
    """Return the turns of a row. Text rows give one turn without a request.

    Raises:
        UserError: if the row lacks a field of its form.
    """
    return FORMS[form](row)


def write_turn(turn: Turn, template: str, number: int) -> Exchange:
    """Return turn `number` (0 = the first) of a row in a template."""
    return (LATER if number else TEMPLATES)[template](turn)


def exchanges(read: list[Turn], template: str) -> list[Exchange]:
    """Return the turns of a row in a template."""
    return [write_turn(turn, template, number) for number, turn in enumerate(read)]
