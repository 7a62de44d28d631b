"""Prompts for a judge about an answer, and the parsing of its rating."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from layerfit.evaluation.judge.files import Bench, JsonLine, Question, answer_turns

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
"""FastChat's two patterns; the second is a fallback, and of several matches the first counts
(fastchat/llm_judge/common.py)."""
LOWEST, HIGHEST = 1.0, 10.0
"""The scale given in the prompts."""


def rating(judgment: str) -> float | None:
    """Return the rating in a judgment, None if there is none on the scale.

    FastChat accepts numbers outside the scale too; here `[0]`, such as an index in quoted code, is not a rating.
    """
    match = _RATING.search(judgment) or _BACKUP.search(judgment)
    value = float(match[1]) if match else None
    return value if value is not None and LOWEST <= value <= HIGHEST else None


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
