"""A verdict is the last rating after any thinking; everything else has none, with its reason."""

import time

import pytest

from layerfit.evaluation.judge.rating import Rating, verdict, verdict_of
from layerfit.evaluation.judge.scores import judged_turns, reasons, unparsed

THOUGHT = "A weak one would be Rating: [[3]], this is better."


@pytest.mark.parametrize(
    "judgment",
    [
        f"<think>\n{THOUGHT}\n</think>\nRating: [[9]]",
        f"<thinking>{THOUGHT}</thinking> Rating: [[9]]",
        f'<reasoning effort="high">{THOUGHT}</reasoning> Rating: [[9]]',
        f"<Thought >{THOUGHT}</ Thought> Rating: [[9]]",
        f"{THOUGHT}</think>Rating: [[9]]",  # a template that begins it in the prompt
        f"<think>{THOUGHT}</think> [[4]] <think>no: {THOUGHT}</think> Rating: [[9]]",
        f"<think>{THOUGHT} <think>{THOUGHT}</think> [[1]]</think> Rating: [[9]]",
        f"◁think▷{THOUGHT}◁/think▷ Rating: [[9]]",
        f"[THINK]{THOUGHT}[/THINK] Rating: [[9]]",
        f"{THOUGHT}\n\nNo. Rating: [[9]]",
        "It says x[[1]] in R. Rating: [[9]]",
        "Rating: [[9]]. It could begin at x[[1]], and f()[[2]]",
        "Rating: [[9]] (the form is [[rating]])",
        "Rating: [9], for a[1] and a[2][0] are right",
        "**[[9]]**",
        '{"rating":[[9.]]}',
    ],
)
def test_the_last_rating_after_any_thinking(judgment):
    assert verdict(judgment) == Rating(9)


@pytest.mark.parametrize(
    ("judgment", "reason"),
    [
        (f"<think>{THOUGHT}", "thinking"),
        (f"Rating: [[7]] <think>or not? {THOUGHT}", "thinking"),
        (f"<think>{THOUGHT}</think>", "none"),
        (f"<think>{THOUGHT}</think> I cannot say.", "none"),
        ("", "none"),
        ("as a[1] shows", "none"),
        ("[[rating]]", "none"),
        ("Rating: [[7/10]]", "form"),
        (f"{THOUGHT} Rating: [[7/10]]", "form"),
        (f"{THOUGHT} Rating: ［［7］］", "form"),  # noqa: RUF001
        (f"{THOUGHT} Rating: 【【7】】", "form"),
        (f"{THOUGHT} Rating: [[nan]]", "form"),
        (f"{THOUGHT} Rating: [[N/A]]", "form"),
        (f"{THOUGHT} Rating: [[1e1]]", "form"),
        (f"{THOUGHT} Rating: [[-7]]", "form"),
        (f"{THOUGHT} Rating: [[٧]]", "form"),  # noqa: RUF001
        (f"{THOUGHT} Rating: [[11]]", "scale"),
        ("Rating: [[0]]", "scale"),
        (f"[[{'9' * 20}]]", "scale"),
    ],
)
def test_no_rating_has_its_reason(judgment, reason):
    assert verdict(judgment) == Rating(None, reason)


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "no_room", "content_filter"])
def test_what_was_cut_off_is_no_rating_whatever_stands_in_it(finish):
    assert verdict("Rating: [[7]], because", finish) == Rating(None, "cut")


@pytest.mark.parametrize("finish", ["stop", "eos_token", "end_turn", None])
def test_what_ended_by_itself_is_read(finish):
    assert verdict_of({"judgment": "[[7]]", "finish_reason": finish}) == Rating(7)


def test_reasons_are_counted():
    line = {"question_id": 1, "turn": 1, "user_prompt": "P"}
    texts = [("[[7]]", "length"), ("[[7]]", "stop"), ("[[70]]", "stop"), ("[[8", "length")]
    lines = [line | {"judgment": text, "finish_reason": end, "repeat": i} for i, (text, end) in enumerate(texts)]
    turns = judged_turns(lines, {})
    assert (turns[0].median, unparsed(turns), reasons(turns)) == (7, 3, {"cut": 2, "scale": 1})


@pytest.mark.parametrize("piece", ["<think ", "[[", "</think", "<", "[[7", "[", "< " * 3])
def test_reading_takes_no_longer_than_the_text(piece):
    start = time.perf_counter()
    verdict(piece * (200_000 // len(piece)))
    assert time.perf_counter() - start < 2
