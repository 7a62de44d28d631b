"""Prompts for a judge about an answer, and the parsing of its rating."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from layerfit.evaluation.judge.files import Bench, JsonLine, Question, answer_turns

_DOUBLE = re.compile(r"(?:(?<![\w\])])|(?<=[Rr]ating))\[\[([^\[\]\n]{1,20})\]\]")
_SINGLE = re.compile(r"(?:(?<![\w\])\[])|(?<=[Rr]ating))\[(\d+\.?\d*)\](?!\])", re.ASCII)
"""FastChat's two forms (fastchat/llm_judge/common.py): `[[7]]`, and `[7]` where there is none. `x[[1]]` is an index."""
_NUMBER = re.compile(r"\d+\.?\d*", re.ASCII)
_MEANT = re.compile(r"\d|\bnan\b|\binf|\bn/?a\b|\bnone\b|\bnull\b", re.IGNORECASE)
"""In brackets, what is meant as a verdict: `[[7/10]]`, `[[N/A]]`; not `[[rating]]`, which quotes the instruction."""
_OTHER_BRACKETS = str.maketrans("\N{FULLWIDTH LEFT SQUARE BRACKET}\N{FULLWIDTH RIGHT SQUARE BRACKET}【】", "[][]")
_TAG = r"(?:think|thinking|thoughts?|reasoning)\b[^<>◁▷]*[>▷]"
_THINKING = re.compile(rf"[<◁]\s*{_TAG}|<\|begin_of_thought\|>|\[THINK\]", re.IGNORECASE)
_ANSWERING = re.compile(rf"[<◁]\s*/\s*{_TAG}|<\|end_of_thought\|>|\[/THINK\]", re.IGNORECASE)
"""Where models begin and end their thinking. An end without a beginning is one too: some templates write the latter."""
CUT = ("length", "max_tokens", "model_length", "no_room", "content_filter", "abort", "error")
"""Reasons of a judgment's end, as servers and `generate` report them, that leave it unfinished."""
LOWEST, HIGHEST = 1.0, 10.0
"""The scale given in the prompts."""


RULE = "last rating"
"""Part of a score's version: earlier layerfits took the first one."""


@dataclass(frozen=True)
class Rating:
    """The rating of a judgment, or why it has none: cut, thinking (it never answers), none, form, scale."""

    value: float | None
    why_not: str | None = None


def verdict(judgment: str, finish: str | None = None) -> Rating:
    """Return the verdict of a judgment: the last rating after any thinking. finish: the reason of its end, if known.

    FastChat takes the first rating, of any part, and also off the scale. In its published judgments the first is the
    last, so all of them are read alike; in judgments that think aloud, weigh several numbers or quote code they differ.
    A last rating that FastChat's form does not fit (`[[7/10]]`) is no number here, as there.
    """
    if finish is not None and finish.lower() in CUT:
        return Rating(None, "cut")
    ends = list(_ANSWERING.finditer(judgment))
    said = judgment[ends[-1].end() :] if ends else judgment
    if _THINKING.search(said):
        return Rating(None, "thinking")
    plain = said.translate(_OTHER_BRACKETS)
    meant = [match for match in _DOUBLE.finditer(plain) if _MEANT.search(match[1])] or list(_SINGLE.finditer(plain))
    if not meant:
        return Rating(None, "none")
    last = said[meant[-1].start(1) : meant[-1].end(1)]
    if not _NUMBER.fullmatch(last) or said[meant[-1].start()] != "[":
        return Rating(None, "form")
    value = float(last)
    return Rating(value) if LOWEST <= value <= HIGHEST else Rating(None, "scale")


def rating(judgment: str, finish: str | None = None) -> float | None:
    """Return the rating of a judgment, None if it has none (`verdict` says why)."""
    return verdict(judgment, finish).value


def verdict_of(line: JsonLine) -> Rating:
    """Return the verdict of a line of judgments, ours or FastChat's."""
    return verdict(line["judgment"], line.get("finish_reason"))


@dataclass(frozen=True)
class Ask:
    """One judgment to request. turn counts from 1, repeat from 0."""

    benchmark: str
    question_id: int
    category: str
    turn: int
    repeat: int
    prompt: str
    """Name of the prompt."""
    system: str
    user: str

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation to send to the judge."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]


def asks(bench: Bench, answers: list[JsonLine], repeats: int) -> Iterator[Ask]:
    """Yield every judgment that the answers need: each turn `repeats` times."""
    questions = {question.id: question for question in bench.questions}
    for line in answers:
        question = questions[line["question_id"]]
        for turn in range(1, len(question.turns) + 1):
            name, text = _user(bench, question, answer_turns(line), turn)
            for repeat in range(repeats):
                system = bench.prompts[name]["system_prompt"]
                yield Ask(bench.name, question.id, question.category, turn, repeat, name, system, text)


def _user(bench: Bench, question: Question, answers: list[str], turn: int) -> tuple[str, str]:
    """Return the name of a turn's prompt and its text: single-v1 for the first turn, multi-turn for the second."""
    name = ("single-math-v1" if question.reference else "single-v1") + ("-multi-turn" if turn > 1 else "")
    values = {f"ref_answer_{number}": text for number, text in enumerate(question.reference, 1)}
    values |= {"question": question.turns[0], "answer": answers[0]}
    values |= {f"question_{number}": text for number, text in enumerate(question.turns, 1)}
    values |= {f"answer_{number}": text for number, text in enumerate(answers, 1)}
    return name, bench.prompts[name]["prompt_template"].format(**values)
