"""Exchanges in the model's own chat template, from its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerfit.data.templates import Exchange, Turn
from layerfit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT = "chat"
_FIX = "set dataset.template=alpaca"


def check_chat(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise UserError(f"dataset.template=chat but the model's tokenizer has no chat template (a base model?); {_FIX}")


def _render(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, *, asks: bool) -> str:
    from jinja2.exceptions import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"the model's chat template refuses the roles {roles}: {error}; {_FIX}") from error
    assert isinstance(text, str)
    return text


def chat_exchanges(read: list[Turn], tokenizer: PreTrainedTokenizerBase) -> list[Exchange]:
    """Return the turns of a row in the model's chat template; turns without an answer are left out.

    The exchanges, joined, are the template's text of the whole conversation. A response begins after the template's
    generation prompt and includes its closing tokens: these are targets too.

    Raises:
        UserError: if the template refuses the conversation, or changes earlier turns when a later one is added.
    """
    messages: list[dict[str, str]] = []
    out: list[Exchange] = []
    done = ""
    for turn in read:
        if not turn.answer.strip():
            continue
        asked = "\n".join(part for part in (turn.request, turn.context) if part)
        messages += [{"role": r, "content": c} for r, c in (("system", turn.system), ("user", asked)) if c]
        prompt = _render(messages, tokenizer, asks=True)
        messages.append({"role": "assistant", "content": turn.answer})
        whole = _render(messages, tokenizer, asks=False)
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise UserError(f"the model's chat template changes earlier turns, so targets are ambiguous; {_FIX}")
        out.append(Exchange(prompt[len(done) :], whole[len(prompt) :], verbatim=True))
        done = whole
    return out
