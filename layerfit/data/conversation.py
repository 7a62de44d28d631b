"""Conversations to turns: messages in any order of roles; nothing of them is lost without being counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from layerfit.data.json_rows import kind_of, short
from layerfit.data.turns import Notes, Turn, text_in, valid
from layerfit.errors import UserError

_ROLES = ("user", "assistant", "system")
_SHAREGPT = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names of roles, in messages with `from` and `value`."""
_TOOLS = ("tools", "tool_calls", "function_call", "functions")
_TOOL_ROLES = ("tool", "function", "observation", "function_call", "tool_call", "tool_response", "ipython")
_MESSAGE = {"role", "content", "from", "value", "weight", *_TOOLS}
_NO_TOOLS = "calls of tools are not read; leave such rows out"
EMPTY_REQUEST = "empty request"
GREETING = "greeting kept as context"


class Conversation:
    """The turns of one row, built message after message.

    - Requests in a row are joined, and so are answers in a row.
    - An answer to nothing (a greeting) is context, not a target.
    - An empty message is no message: what stands around it joins.
    """

    def __init__(self, notes: Notes) -> None:
        self._count = notes.changes
        self._done: list[Turn] = []
        self._requests: list[str] = []
        self._system: list[str] = []

    def say(self, role: str, text: str, *, trained: bool = True) -> None:
        """Add a message. trained: whether an answer is a target.

        Raises:
            UserError: if answers in a row have different weights.
        """
        if role == "system":
            self._count["system text moved before its request"] += bool(self._requests)
            self._system += [text] if text else []
        elif not text.strip():
            self._count[EMPTY_REQUEST if role == "user" else "empty answer"] += 1
        elif role == "user":
            self._count["requests in a row joined"] += bool(self._requests)
            self._requests.append(text)
        elif self._requests or self._system:
            self._answer(text, trained=trained)
        elif self._done:
            self._join(text, trained=trained)
        else:
            self._count[GREETING] += 1
            self._answer(text, trained=False)

    def _answer(self, text: str, *, trained: bool) -> None:
        request, system = ("\n\n".join(parts) for parts in (self._requests, self._system))
        self._done.append(Turn(request, text, system=system, trained=trained))
        self._requests, self._system = [], []

    def _join(self, text: str, *, trained: bool) -> None:
        last = self._done.pop()
        greets = not (last.request or last.system)
        if last.trained != trained and not greets:
            raise UserError("two answers in a row have different weights; give both the same")
        self._count["answers in a row joined"] += 1
        self._done.append(replace(last, answer=f"{last.answer}\n\n{text}"))

    def turns(self) -> list[Turn]:
        """Return the turns; what waits for an answer is left out, and counted."""
        self._count["request without an answer"] += bool(self._requests)
        self._count["system text without an answer"] += bool(self._system and not self._requests)
        return self._done


def refuse_tools(row: Mapping[str, Any], where: str) -> None:
    """Raise UserError if a row or message has calls or descriptions of tools, which are not read."""
    for key in _TOOLS:
        value = row.get(key)
        if value and not (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null")):
            raise UserError(f"{where} has {key!r}: {_NO_TOOLS}, or remove {key!r}")


def messages_of(row: Mapping[str, Any], notes: Notes) -> list[Turn]:
    """Read `messages` (role, content, weight) or `conversations` (ShareGPT's from, value; LIMA's alternating texts).

    A `system` column is the first system text. Answers with weight 0 are context.

    Raises:
        UserError: naming the message that cannot be read.
    """
    key = "messages" if row.get("messages") is not None else "conversations"
    messages = row.get(key)
    if not isinstance(messages, list):
        found = f"here it is {kind_of(messages)}" if key in row else f"the row has {short(sorted(row))}"
        fix = "; write a list of messages, not its JSON as text" if isinstance(messages, str) else ""
        raise UserError(f"dataset.form=messages needs a list 'messages' or 'conversations'; {found}{fix}")
    refuse_tools(row, "dataset.form=messages: the row")
    talk = Conversation(notes)
    if system := text_in(row, "system", "messages", optional=True):
        talk.say("system", system)
    for number, message in enumerate(messages):
        role, content, trained = _message(number, message)
        talk.say(role, content, trained=trained)
        if isinstance(message, dict):
            extra = {name for name, value in message.items() if value is not None and name not in _MESSAGE}
            notes.unread |= {f"{key}.{name}" for name in extra}
    return talk.turns()


def _message(number: int, message: Any) -> tuple[str, str, bool]:
    """Return role, content and whether an answer is a target; plain strings alternate, as in LIMA."""
    where = f"dataset.form=messages: message {number}"
    if isinstance(message, str):
        return ("user", "assistant")[number % 2], valid(message, where), True
    if not isinstance(message, dict):
        raise UserError(f"{where} needs strings 'role' and 'content'; it is {kind_of(message)}")
    refuse_tools(message, where)
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        key, value = ("role", role) if not isinstance(role, str) else ("content", content)
        raise UserError(
            f"{where} needs strings 'role' and 'content' (or 'from' and 'value'); {key} is {kind_of(value)}"
        )
    role = _SHAREGPT.get(role, role)
    if role in _TOOL_ROLES:
        raise UserError(f"{where} has the role {role!r}: {_NO_TOOLS}")
    if role not in _ROLES:
        raise UserError(f"{where}: role {short(role)} is not known; use user, assistant or system (or human, gpt)")
    return role, valid(content, where), _trained(message.get("weight"), role, where)


def _trained(weight: Any, role: str, where: str) -> bool:
    if weight is None or (weight in (0, 1) and role == "assistant"):
        return weight is None or weight == 1
    if role != "assistant" and weight == 0:
        return False
    raise UserError(f"{where}, of {role}, has weight={short(weight)}; only 0 and 1 are read, and only of assistant")
