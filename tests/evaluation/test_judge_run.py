"""A judged benchmark from the model to the table: scores by hand, kills, judges that never mix."""

import json
import re
import statistics
from pathlib import Path

import pandas as pd
import pytest
import torch

from layerfit.config.schema import HubConfig
from layerfit.evaluation.judge import answers as answers_module
from layerfit.evaluation.judge import client
from layerfit.evaluation.judge.__main__ import main as command
from layerfit.evaluation.judge.client import JudgeError
from layerfit.evaluation.judge.files import read_lines
from layerfit.evaluation.judge.generate import generate
from layerfit.evaluation.judge.run import judged, keep_judgments
from layerfit.models.hub import load_model, load_tokenizer
from layerfit.report.checks import _of_column, of_score
from layerfit.report.spec import Column
from tests.helpers.judge_server import NANO, QUESTIONS, always, completion, config, fingerprints, judge, write_bench

RATINGS = {(1, 1): 8, (1, 2): 6, (2, 1): 3, (2, 2): 2, (3, 1): 1, (3, 2): 4}
"""By question and turn."""


@pytest.fixture(scope="module")
def loaded():
    return load_model(NANO, HubConfig(), "fp32"), load_tokenizer(NANO, HubConfig())


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    monkeypatch.setattr(client, "sleep", lambda _: None)
    return write_bench(tmp_path / "data")


def turn_of(body):
    """Which question and turn a judge is asked about, from the prompt alone."""
    system, user = (message["content"] for message in body["messages"])
    turn = {"S": 1, "M": 2}[system]
    first = re.match(r"Q (.*?)(?: R REF\dA)? [AQ]", user)[1]
    return next(q["question_id"] for q in QUESTIONS if q["turns"][0] == first), turn


def rates(_, body):
    return completion(f"I think so. Rating: [[{RATINGS[turn_of(body)]}]]")


def run(loaded, config, folder):
    scores, items = judged(*loaded, config, HubConfig(offline=True), "cpu", folder)
    return {score.key: score for score in scores}, items


def test_scores_are_what_one_computes_by_hand(loaded, data, tmp_path):
    with judge(rates) as (url, seen):
        scores, items = run(loaded, config(data, url), tmp_path / "run")
    assert len(seen) == 6
    assert {key.removeprefix("mt_bench/"): score.value for key, score in scores.items()} == pytest.approx({
        "rating": 24 / 6, "rating_without_coding": 19 / 4, "rating_turn_1": 12 / 3, "rating_turn_2": 12 / 3,
        "rating_writing": 7, "rating_math": 2.5, "rating_coding": 2.5, "unparsed": 0,
        "answers_cut": scores["mt_bench/answers_cut"].value,
    })  # fmt: skip
    assert items["mt_bench/rating"] == [7, 2.5, 2.5]
    assert items["mt_bench/rating_turn_2"] == [6, 2, 4]
    score = scores["mt_bench/rating"]
    assert score.stderr == pytest.approx(statistics.stdev([7, 2.5, 2.5]) / 3**0.5)
    assert (score.num_items, score.num_available, score.data_complete) == (3, 3, True)
    assert scores["mt_bench/rating_math"].num_items == 1
    assert "judge=judge;served=judge-2024;k=1;plain;fastchat;6" in score.version
    assert (score.higher_is_better, scores["mt_bench/unparsed"].higher_is_better) == (True, False)


@torch.no_grad()
def test_every_question_gets_its_own_answer_to_both_turns(loaded, data, tmp_path):
    """Greedy by hand, without batch or cache; the conversation is written out in words."""
    model, tokenizer = loaded
    with judge(rates) as (url, _):
        run(loaded, config(data, url, decoding="greedy"), tmp_path / "run")
    for question, line in zip(QUESTIONS, read_lines(tmp_path / "run/judge/answers.jsonl"), strict=True):
        ids: list[int] = []
        assert line["question_id"] == question["question_id"]
        for number, (asked, answered) in enumerate(zip(question["turns"], line["choices"][0]["turns"], strict=True)):
            ids += tokenizer(asked, add_special_tokens=number == 0).input_ids
            start = len(ids)
            while len(ids) - start < 6 and ids[-1] != tokenizer.eos_token_id:
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            assert answered == tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
            ids = ids[:start] + tokenizer(f" {answered}", add_special_tokens=False).input_ids
            ids.append(tokenizer.eos_token_id)


def test_files_are_fastchats_and_score_again_offline(loaded, data, tmp_path, capsys):
    with judge(rates) as (url, _):
        scores, _ = run(loaded, config(data, url), tmp_path / "abc")
    place = tmp_path / "abc" / "judge" / "mt_bench"
    table = pd.read_json(place / "model_judgment" / "judge_single.jsonl", lines=True)  # show_result.py
    assert table[table.score != -1].groupby("model").score.mean()["abc"] == scores["mt_bench/rating"].value
    first = read_lines(place / "model_judgment" / "judge_single.jsonl")[0]
    assert list(first)[:8] == ["question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"]
    answer = read_lines(place / "model_answer" / "abc.jsonl")[0]
    assert {"question_id", "answer_id", "model_id", "choices", "tstamp"} <= set(answer)
    assert len(answer["choices"][0]["turns"]) == 2
    written = keep_judgments(tmp_path / "abc", tmp_path / "results")
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "results/answers/abc.jsonl.gz",
        "results/judgments/abc.jsonl.gz",
    ]
    assert command(["rescore", str(written[1])]) == 0
    out = capsys.readouterr().out
    assert "abc, judged by judge (served judge-2024)" in out
    for key, score in scores.items():
        if "rating" in key:
            assert re.search(rf"{key.removeprefix('mt_bench/')} +{score.value:.4f} ", out)


def test_two_benchmarks_are_asked_and_never_averaged(loaded, data, tmp_path, capsys):
    """What one has alone, and a second one's questions; its files score again, each by itself."""
    other = {"question_id": 9, "category": "generic", "turns": ["ruvoson eats"]}
    write_bench(data, [other], [], name="vicuna_bench")

    def behave(number, body):
        return completion("[[9]]") if "Q ruvoson eats A" in body["messages"][1]["content"] else rates(number, body)

    with judge(behave) as (url, seen):
        alone, _ = run(loaded, config(data, url), tmp_path / "alone")
        seen.clear()
        scores, items = run(loaded, config(data, url, benchmarks=("mt_bench", "vicuna_bench")), tmp_path / "run")
    assert len(seen) == 7
    assert {key: score for key, score in scores.items() if key.startswith("mt_bench")} == alone
    assert (scores["vicuna_bench/rating"].value, items["vicuna_bench/rating"]) == (9, [9])
    assert items["mt_bench/rating"] == [7, 2.5, 2.5]
    assert scores["vicuna_bench/rating"].version != scores["mt_bench/rating"].version
    assert command(["rescore", str(keep_judgments(tmp_path / "run", tmp_path / "results")[1])]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert re.search(r", mt_bench\n +rating +4.0000 ", first)
    assert re.search(r", vicuna_bench\n +rating +9.0000 ", second)


def test_repeats_give_median_and_spread(loaded, data, tmp_path):
    texts = ["[[2]]", "nothing", "[[9]]"]  # one at a time, so three in a row are of one turn
    with judge(lambda number, _: completion(texts[(number - 1) % 3])) as (url, _):
        scores, _ = run(loaded, config(data, url, judgments=3, parallel=1), tmp_path / "run")
    assert scores["mt_bench/rating"].value == 5.5
    assert scores["mt_bench/spread"].value == 7
    assert scores["mt_bench/unparsed"].value == pytest.approx(1 / 3)
    assert scores["mt_bench/rating"].num_items == 3


def test_a_judgment_without_a_rating_is_kept_counted_and_no_number(loaded, data, tmp_path):
    def behave(number, body):
        return completion("I cannot.") if turn_of(body) == (2, 1) else rates(number, body)

    with judge(behave) as (url, seen):
        scores, items = run(loaded, config(data, url), tmp_path / "run")
    assert len(seen) == 6  # asked once: another answer would be a choice among ratings
    score = scores["mt_bench/rating"]
    assert score.value == pytest.approx(21 / 5)
    assert (score.num_items, score.num_available, score.stderr) == (2, 3, None)
    assert of_score(score.key, score) == ["truncated evaluation: mt_bench/rating on 2 of 3 items"]
    assert scores["mt_bench/unparsed"].value == pytest.approx(1 / 6)
    assert set(items) == {f"mt_bench/rating_{part}" for part in ("turn_2", "writing", "coding")}
    (line,) = [x for x in read_lines(tmp_path / "run/judge/judgments.jsonl") if x["score"] is None]
    assert line["judgment"] == "I cannot."


def test_nothing_rated_is_no_score(loaded, data, tmp_path):
    with judge(always(completion("no"))) as (url, _):
        scores, items = run(loaded, config(data, url), tmp_path / "run")
    assert set(scores) == {"mt_bench/unparsed", "mt_bench/unparsed_none", "mt_bench/answers_cut"}
    assert items == {}


def test_what_was_said_before_a_failure_is_not_asked_again(loaded, data, tmp_path, monkeypatch):
    with judge(lambda n, body: rates(n, body) if n <= 4 else (500, {}, "down")) as (url, seen):
        with pytest.raises(
            JudgeError, match=r"HTTP 500 \(down\); 4 of 6 judgments are kept, the same command"
        ) as error:
            run(loaded, config(data, url, parallel=1), tmp_path / "run")
        assert "\n" not in str(error.value)
    said = [turn_of(request["body"]) for request in seen[:4]]
    path = tmp_path / "run/judge/mt_bench/model_judgment/judge_single.jsonl"
    with path.open("a") as file:
        file.write('{"question_id": 3, "mod')  # and killed while it wrote the next
    monkeypatch.setattr(answers_module, "generate", None)  # answers are not given twice
    with judge(rates) as (url, seen):
        scores, _ = run(loaded, config(data, url, parallel=1), tmp_path / "run")
    assert {turn_of(request["body"]) for request in seen}.isdisjoint(said)
    assert len(seen) == 2
    monkeypatch.undo()
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with judge(rates) as (url, _):
        straight, _ = run(loaded, config(data, url), tmp_path / "straight")
    assert scores == straight


def test_answers_given_before_a_kill_stay_and_the_rest_are_what_they_would_have_been(
    loaded, data, tmp_path, monkeypatch
):
    calls = []

    def killed(model, tokenizer, prompts, *rest):
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(model, tokenizer, prompts, *rest)

    asked = config(data, max_new_tokens=12)
    with judge(rates) as (url, _):
        asked.judge.base_url = url
        run(loaded, asked, tmp_path / "straight")
        monkeypatch.setattr(answers_module, "generate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(loaded, asked, tmp_path / "run")
        run(loaded, asked, tmp_path / "run")
    assert calls == [2, 2, 1, 1, 1]

    def texts(name):
        lines = read_lines(tmp_path / name / "judge" / "answers.jsonl")
        return [(line["question_id"], line["answer_id"], line["choices"]) for line in lines]

    assert texts("run") == texts("straight")


def test_other_weights_answer_anew(loaded, data, tmp_path):
    tokenizer = loaded[1]
    with judge(rates) as (url, seen):
        run(loaded, config(data, url), tmp_path / "run")
        other = load_model(NANO, HubConfig(), "fp32")
        with torch.no_grad():
            other.lm_head.weight.neg_()
        run((other, tokenizer), config(data, url), tmp_path / "run")
        assert len(seen) == 12
    used = read_lines(tmp_path / "run/judge/judgments.jsonl")
    assert len(used) == 6  # what counts, not what an earlier training was told
    assert {line["user_prompt"] for line in used} == {r["body"]["messages"][1]["content"] for r in seen[6:]}


def test_a_limit_is_marked_and_unpinned_data_are_refused(loaded, data, tmp_path):
    with judge(rates) as (url, seen):
        scores, _ = run(loaded, config(data, url, limit=2, benchmarks={"mt_bench": None}), tmp_path / "run")
    assert len(seen) == 4
    score = scores["mt_bench/rating"]
    assert (score.num_items, score.num_available, score.data_complete) == (2, 3, False)
    assert len(of_score(score.key, score)) == 2
    assert "mt_bench/rating_coding" not in scores


def test_a_column_never_mixes_judges(loaded, data, tmp_path):
    """Two ids, one id that two models answer to, other decoding: each is another column."""
    versions = {}
    for name, model, served in (("a", "judge", "s1"), ("b", "judge", "s1"), ("c", "other", "s1"), ("d", "judge", "s2")):
        with judge(always(completion("[[5]]", model=served))) as (url, _):
            versions[name] = run(loaded, config(data, url, model=model), tmp_path / name)[0]["mt_bench/rating"]
    with judge(always(completion("[[5]]", model="s1"))) as (url, _):
        versions["e"] = run(loaded, config(data, url, decoding="greedy"), tmp_path / "e")[0]["mt_bench/rating"]

    def refused(*names):
        cells = [(type("Cell", (), {"name": n}), _record(versions[n])) for n in names]
        return _of_column(Column("MT-Bench", "mt_bench/rating"), cells)

    assert refused("a", "b") == []
    for other in "cde":
        assert refused("a", other)[0].startswith("mixed task version in column MT-Bench: ")


def _record(score):
    return type("Record", (), {"result": type("Result", (), {"scores": [score]})})


@pytest.mark.slow
def test_the_command_line_judges_and_goes_on_after_a_failure(data, tmp_path, monkeypatch, capfd):
    from layerfit.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pinned = fingerprints(data, "mt_bench")["mt_bench"]

    def run_with(url):
        words = ["method=full", "training.max_steps=2", "engine=torch", "eval=mt_bench", f"eval.judge.data={data}"]
        words += [f"eval.judge.benchmarks.mt_bench={pinned}", "eval.judge.template=plain", "eval.judge.model=j"]
        words += [f"eval.judge.base_url={url}", "eval.judge.max_new_tokens=6", "eval.judge.max_attempts=1"]
        return main([*words, "eval.judge.key_variable=null", "eval.judge.parallel=1", "hub.offline=true"])

    with judge(lambda n, body: rates(n, body) if n < 3 else (500, {}, "down")) as (url, _):
        assert run_with(url) == 1
    (record,) = (tmp_path / "results/runs").glob("*.json")
    message = json.loads(record.read_text())["result"]["message"]
    assert "1 attempts failed, the last with HTTP 500 (down); 2 of 6 judgments are kept" in message
    with judge(rates) as (url, seen):
        assert run_with(url) == 0
        assert len(seen) == 4
        assert run_with("http://127.0.0.1:1/v1") == 0  # done: nobody is asked
    scores = {s["metric"]: s["value"] for s in json.loads(record.read_text())["result"]["scores"]}
    assert scores["rating"] == 4
    assert "127.0.0.1" not in record.read_text()
    assert len(read_lines(tmp_path / "results" / "judgments" / f"{record.stem}.jsonl.gz")) == 6
