"""Exchanges in the model's own chat template, from its tokenizer. A template is code of the model's author."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerfit.data.own_tokens import SpecialWords
from layerfit.data.templates import Exchange
from layerfit.data.turns import Turn
from layerfit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT = "chat"
_FIX = "set dataset.template=alpaca"
_GREETED = [Turn("", "a", trained=False), Turn("b", "c")]


def check_chat(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer has no chat template, or several and no default."""
    template = tokenizer.chat_template
    if not template:
        raise UserError(f"dataset.template=chat but the model's tokenizer has no chat template (a base model?); {_FIX}")
    if isinstance(template, dict) and "default" not in template:
        names = ", ".join(sorted(template))
        raise UserError(
            f"dataset.template=chat but the model's chat templates ({names}) have none named default; name one of them "
            f"default in its tokenizer_config.json, or {_FIX}"
        )


def _render(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, *, asks: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages)
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the model's chat template refuses the roles {roles}: {said}; {_FIX}") from error
    assert isinstance(text, str)
    return text


def holds_greeting(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the template can write a conversation that opens with the assistant."""
    try:
        return len(chat_exchanges(_GREETED, tokenizer)) == len(_GREETED)
    except UserError:
        return False


def chat_exchanges(
    read: list[Turn], tokenizer: PreTrainedTokenizerBase, words: SpecialWords | None = None
) -> list[Exchange]:
    """Return the turns of a row in the model's chat template; turns without an answer are left out.

    The exchanges, joined, are the template's text of the whole conversation. A response begins after the template's
    generation prompt and includes its closing tokens: these are targets too. A greeting has no prompt.

    words: special tokens, which are hidden where messages have them (`SpecialWords.hide`).

    Raises:
        UserError: if the template refuses the conversation, or changes earlier turns when a later one is added.
    """
    words = SpecialWords(tokenizer) if words is None else words
    messages: list[dict[str, str]] = []
    out: list[Exchange] = []
    done = ""
    for turn in read:
        if not turn.answer.strip():
            continue
        asked = "\n".join(part for part in (turn.request, turn.context) if part)
        messages += [{"role": r, "content": words.hide(c)} for r, c in (("system", turn.system), ("user", asked)) if c]
        prompt = _render(messages, tokenizer, asks=True) if messages else ""
        messages.append({"role": "assistant", "content": words.hide(turn.answer)})
        whole = _render(messages, tokenizer, asks=False)
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise UserError(f"the model's chat template changes earlier turns, so targets are ambiguous; {_FIX}")
        out.append(Exchange(prompt[len(done) :], whole[len(prompt) :], verbatim=True, trained=turn.trained))
        done = whole
    return out
