"""From turns to exchanges: prompts and responses. A *template* is the format of a prompt.

None of these needs a tokenizer; the model's own chat template, which does, is in `layerfit.data.chat`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from layerfit.data.turns import Turn

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
class Exchange:
    """One prompt and its response; the model's input is `prompt + response`.

    verbatim: the text contains its special tokens, the tokenizer adds none. The same for all exchanges of a row.
    trained: whether the response is a target; otherwise it is context for later ones.
    """

    prompt: str
    response: str
    verbatim: bool = False
    trained: bool = True


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


def write_turn(turn: Turn, template: str, number: int) -> Exchange:
    """Return turn `number` (0 = the first) of a row in a template."""
    written = (LATER if number else TEMPLATES)[template](turn)
    return written if turn.trained else replace(written, trained=False)


def exchanges(read: list[Turn], template: str) -> list[Exchange]:
    """Return the turns of a row in a template; the first request has its header, also after a greeting."""
    first = next((number for number, turn in enumerate(read) if turn.asked), 0)
    return [write_turn(turn, template, max(0, number - first)) for number, turn in enumerate(read)]
