"""From a row to turns: a *form* is the format of a row.

Nothing of a row is lost in silence: what is not read is refused by name, or noted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from layerfit.data.conversation import EMPTY_REQUEST, Conversation, messages_of, refuse_tools
from layerfit.data.json_rows import RawRow, short
from layerfit.data.turns import Notes, Turn, text_in
from layerfit.errors import UserError


def _noted(turn: Turn, notes: Notes) -> Turn:
    notes.changes[EMPTY_REQUEST] += not (turn.asked.strip() or turn.context.strip())
    return turn


def _prompt(row: RawRow, notes: Notes) -> list[Turn]:
    """Read `prompt` and `response`, or `input` and `output`, as LMFlow's `text2text` has them."""
    lmflow = "prompt" not in row and {"input", "output"} <= set(row)
    request, answer = ("input", "output") if lmflow else ("prompt", "response")
    return [_noted(Turn(text_in(row, request, "prompt"), text_in(row, answer, "prompt")), notes)]


def _alpaca(row: RawRow, notes: Notes) -> list[Turn]:
    """Read `instruction`, `input` and `output`; `system`, and `history`: earlier pairs, whose answers train too."""
    request, answer = text_in(row, "instruction", "alpaca"), text_in(row, "output", "alpaca")
    context, system = (text_in(row, key, "alpaca", optional=True) for key in ("input", "system"))
    refuse_tools(row, "dataset.form=alpaca: the row")
    earlier = _history(row, notes)
    if not earlier:
        return [_noted(Turn(request, answer, context, system), notes)]
    notes.changes["empty answer"] += not answer.strip()
    return [replace(earlier[0], system=system), *earlier[1:], _noted(Turn(request, answer, context), notes)]


def _history(row: RawRow, notes: Notes) -> list[Turn]:
    """Return the earlier turns of LLaMA-Factory's `history`, a list of pairs of request and answer."""
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError("dataset.form=alpaca: 'history' must be a list of pairs [request, answer]; correct it")
    talk = Conversation(notes)
    for pair in history:
        for role, text in zip(("user", "assistant"), pair, strict=True):
            talk.say(role, text_in({f"history ({role})": text}, f"history ({role})", "alpaca"))
    return talk.turns()


def _text(row: RawRow, notes: Notes) -> list[Turn]:
    del notes
    return [Turn("", text_in(row, "text", "text"))]


FORMS: dict[str, Callable[[RawRow, Notes], list[Turn]]] = {
    "prompt": _prompt,
    "alpaca": _alpaca,
    "messages": messages_of,
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
    "prompt": ({"prompt", "response"}, {"input", "output"}),
    "text": ({"text"},),
}
_READ = {
    "prompt": {"prompt", "response", "input", "output"},
    "alpaca": {"instruction", "input", "output", "system", "history", "tools"},
    "messages": {"messages", "conversations", "system", "tools"},
    "text": {"text"},
    "lines": {"text"},
}
"""Columns that a form reads, or refuses by name."""


def detect_form(row: RawRow) -> str:
    """Return the form of a row by its columns, for `dataset.form=auto`; a column that is null is not there.

    Raises:
        UserError: if no form has these columns.
    """
    there = {name for name, value in row.items() if value is not None}
    for have in (there, set(row)):  # a needed column that is null in the first row gets its own message
        for form, choices in _COLUMNS.items():
            if any(columns <= have for columns in choices):
                return form
    known = "; ".join(f"{form}: {' or '.join('+'.join(sorted(c)) for c in cs)}" for form, cs in _COLUMNS.items())
    raise UserError(f"dataset.form=auto recognises no form in the columns {short(sorted(row))}; forms are {known}")


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


def turns(row: RawRow, form: str, notes: Notes | None = None) -> list[Turn]:
    """Return the turns of a row. Text rows give one turn without a request.

    notes: what was changed or not read is added there.

    Raises:
        UserError: if the row lacks a field of its form, or has one that cannot be read.
    """
    notes = Notes() if notes is None else notes
    notes.unread |= {name for name, value in row.items() if value is not None and name not in _READ[form]}
    return FORMS[form](row, notes)
