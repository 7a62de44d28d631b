"""From judgments to scores: the median over the judgments of a turn, the mean over turns.

With one judgment per turn these are the averages of FastChat's show_result.py. A judgment without a rating is counted
but never becomes a number: FastChat writes -1 and omits it; here it is null, and its question has no score.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from layerfit.evaluation.judge.files import Bench, JsonLine, Question
from layerfit.evaluation.judge.rating import verdict_of
from layerfit.evaluation.lm_eval.harness import hash_of, standard_error
from layerfit.records.record import Items, Score

CODING = "coding"
"""Category excluded from `rating_without_coding`: the tables in version 1 of the LISA paper average the other seven
categories (its rows are exactly that; the NeurIPS version has all eight)."""


@dataclass(frozen=True)
class JudgedTurn:
    """All judgments of one answer: ratings in the order requested, None where a judgment has none."""

    question_id: int
    category: str | None
    turn: int
    ratings: tuple[float | None, ...]
    why_not: tuple[str, ...] = ()
    """The reasons of those without one (`rating.Rating`)."""

    @property
    def median(self) -> float | None:
        """The median rating; None if no judgment has one."""
        rated = [value for value in self.ratings if value is not None]
        return statistics.median(rated) if rated else None


def judged_turns(lines: Iterable[JsonLine], categories: dict[int, str]) -> list[JudgedTurn]:
    """Return the ratings, parsed again from judgments. Judgments of the same text are repeats, of others other answers.

    categories: by question, for lines without one (FastChat's).
    """
    groups: dict[tuple[int, int, str], list[JsonLine]] = defaultdict(list)
    for line in lines:
        groups[line["question_id"], line["turn"], line["user_prompt"]].append(line)
    out = []
    for (question_id, turn, _), group in sorted(groups.items()):
        category = group[0].get("category") or categories.get(question_id)
        ordered = sorted(group, key=lambda line: line.get("repeat", 0))
        found = [verdict_of(line) for line in ordered]
        reasons = tuple(one.why_not for one in found if one.why_not is not None)
        out.append(JudgedTurn(question_id, category, turn, tuple(one.value for one in found), reasons))
    return out


def parts(turns: list[JudgedTurn]) -> dict[str, list[JudgedTurn]]:
    """Return the turns behind every rating, by metric: all, all but coding, each turn, each category."""
    out = {"rating": turns}
    categories = sorted({turn.category for turn in turns if turn.category is not None})
    if CODING in categories:
        out["rating_without_coding"] = [turn for turn in turns if turn.category != CODING]
    numbers = sorted({turn.turn for turn in turns})
    if len(numbers) > 1:
        out |= {f"rating_turn_{number}": [turn for turn in turns if turn.turn == number] for number in numbers}
    return out | {f"rating_{c}": [turn for turn in turns if turn.category == c] for c in categories}


def average(turns: list[JudgedTurn]) -> float | None:
    """Return the mean of the medians over rated turns, None if no turn is rated."""
    rated = [turn.median for turn in turns if turn.median is not None]
    return statistics.fmean(rated) if rated else None


def unparsed(turns: list[JudgedTurn]) -> int:
    """Return the number of judgments without a rating."""
    return sum(value is None for turn in turns for value in turn.ratings)


def reasons(turns: list[JudgedTurn]) -> dict[str, int]:
    """Return how many judgments have no rating for each reason, most frequent first."""
    return dict(Counter(reason for turn in turns for reason in turn.why_not).most_common())


def spread(turns: list[JudgedTurn]) -> float | None:
    """Return the mean over turns of the range of ratings, None if no turn has two ratings."""
    rated = [[value for value in turn.ratings if value is not None] for turn in turns]
    ranges = [max(values) - min(values) for values in rated if len(values) > 1]
    return statistics.fmean(ranges) if ranges else None


@dataclass(frozen=True)
class Scoring:
    """The inputs of scores: the questions asked of a benchmark, their answers and judgments."""

    bench: Bench
    asked: tuple[Question, ...]
    answers: list[JsonLine]
    turns: list[JudgedTurn]
    version: str
    pinned: bool
    """Whether the questions were checked against a fingerprint in the configuration."""

    def all(self) -> tuple[list[Score], Items]:
        """Return the scores and, where every question is rated, their items: one number per question."""
        scores, items = [], {}
        for metric, turns in parts(self.turns).items():
            value, by_question = average(turns), _by_question(turns, self.asked)
            if value is None:
                continue  # no rated turn: no score, which a table reports as missing
            rated = [number for number in by_question if number is not None]
            whole = len(rated) == len(by_question) and math.isclose(statistics.fmean(rated), value, abs_tol=1e-9)
            error = standard_error(rated) if whole else None
            score = self._score(metric, value, error, len(rated), self._available(metric))
            scores.append(score)
            if whole:
                items[score.key] = rated
        for metric, value in self._shares().items():
            scores.append(self._score(metric, value, None, len(self.asked), len(self.bench.questions)))
        return sorted(scores, key=lambda score: score.key), items

    def _shares(self) -> dict[str, float]:
        finishes = [finish for line in self.answers for finish in line["choices"][0]["finish"]]
        judgments = sum(len(turn.ratings) for turn in self.turns)
        out = {
            "unparsed": unparsed(self.turns) / judgments,
            **{f"unparsed_{reason}": count / judgments for reason, count in reasons(self.turns).items()},
            "answers_cut": sum(finish != "stop" for finish in finishes) / len(finishes),
        }
        found = spread(self.turns)
        return out if found is None else out | {"spread": found}

    def _available(self, metric: str) -> int:
        """Return the number of questions in the whole benchmark that a metric covers."""
        whole = [JudgedTurn(q.id, q.category, n, ()) for q in self.bench.questions for n in range(1, len(q.turns) + 1)]
        return len({turn.question_id for turn in parts(whole)[metric]})

    def _score(self, metric: str, value: float, error: float | None, rated: int, available: int) -> Score:
        return Score(
            task=self.bench.name,
            metric=metric,
            value=value,
            stderr=error,
            num_items=rated,
            num_available=available,
            num_fewshot=0,
            version=self.version,
            higher_is_better=metric.startswith("rating"),
            docs=hash_of([self.bench.fingerprint, *(str(question.id) for question in self.asked)]),
            data_complete=self.pinned,
        )


def _by_question(turns: list[JudgedTurn], asked: tuple[Question, ...]) -> list[float | None]:
    """Return each question's mean over its turns, in the order asked; None where a turn has no rating."""
    medians: dict[int, list[float | None]] = defaultdict(list)
    for turn in turns:
        medians[turn.question_id].append(turn.median)
    out: list[float | None] = []
    for question in asked:
        if question.id in medians:
            values = medians[question.id]
            rated = [value for value in values if value is not None]
            out.append(statistics.fmean(rated) if len(rated) == len(values) else None)
    return out
