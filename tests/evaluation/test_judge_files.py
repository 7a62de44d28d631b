"""FastChat's files: prompts byte for byte, ratings as FastChat read them, averages as pandas computes them."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import HubConfig
from layerfit.errors import UserError
from layerfit.evaluation.judge.__main__ import by_model_judge_and_benchmark, main
from layerfit.evaluation.judge.files import Journal, load_bench, load_benches, read_lines
from layerfit.evaluation.judge.rating import asks, rating
from layerfit.evaluation.judge.scores import average, judged_turns, parts, spread, unparsed
from tests.helpers.judge_server import QUESTIONS, REFERENCES, write_bench, write_lines

FASTCHAT = Path(__file__).resolve().parents[3] / "shared" / "fastchat"
JUDGMENTS = FASTCHAT / "mt_bench" / "model_judgment" / "gpt-4_single.jsonl"
needs_fastchat = pytest.mark.skipif(not FASTCHAT.is_dir(), reason=f"no FastChat files at {FASTCHAT}")


def bench_at(folder, name="mt_bench", fingerprint=None, **changed):
    return load_bench(JudgeConfig({name: fingerprint}, **{"data": str(folder)} | changed), name, HubConfig())


@pytest.mark.parametrize(
    ("judgment", "found"),
    [
        ("Rating: [[7]]", 7),
        ("Rating: [[8.5]] or [[2]]", 2),
        ("Rating: [6]", 6),
        ("as [1] says ... Rating: [[9]]", 9),
        ("Rating: [[10]]", 10),
        ("Rating: [[rating]]", None),
        ("Rating: 7", None),
        ("Rating: [[N/A]]", None),
        ("x[0] is wrong", None),
        ("[[85]]", None),
        ("[[-1]]", None),
        ("", None),
        ("$ERROR$", None),
    ],
)
def test_a_rating_is_on_the_scale_or_none(judgment, found):
    assert rating(judgment) == found


@needs_fastchat
def test_every_published_judgment_is_rated_as_fastchat_did():
    lines = read_lines(JUDGMENTS)
    assert len(lines) == 800
    assert [rating(line["judgment"]) for line in lines] == [s if (s := line["score"]) != -1 else None for line in lines]


@needs_fastchat
def test_prompts_equal_the_published_ones_byte_for_byte():
    """The answers are cut out of FastChat's prompts, and the prompts written again around them."""
    bench = bench_at(FASTCHAT)
    first = re.compile(r"\[The Start of Assistant's Answer\]\n(.*)\n\[The End of Assistant's Answer\]$", re.DOTALL)
    lines = [line for line in read_lines(JUDGMENTS) if line["model"] == "mistral-orpo-capybara"]
    texts = {(line["question_id"], line["turn"]): (line["judge"][1], line["user_prompt"]) for line in lines}
    answers = []
    for question in bench.questions:
        one = first.search(texts[question.id, 1][1])[1]
        opening = f"### User:\n{question.turns[1]}\n\n### Assistant A:\n"
        two = texts[question.id, 2][1].split(opening)[1].split("\n\n<|The End of Assistant A's Conversation")[0]
        answers.append({"question_id": question.id, "choices": [{"turns": [one, two]}]})
    written = {(ask.question_id, ask.turn): (ask.prompt, ask.user) for ask in asks(bench, answers, 1)}
    assert written == texts
    assert {name for name, _ in written.values()} == set(bench.prompts)


@needs_fastchat
def test_fastchats_answers_can_be_asked_about():
    bench = bench_at(FASTCHAT)
    answers = read_lines(FASTCHAT / "mt_bench" / "model_answer" / "vicuna-7b-v1.3.jsonl")
    asked = list(asks(bench, answers, 3))
    assert len(asked) == 80 * 2 * 3
    assert sum(ask.prompt.startswith("single-math") for ask in asked) == 30 * 2 * 3
    assert asked[0].messages()[0] == {"role": "system", "content": "You are a helpful assistant."}


@needs_fastchat
def test_rescoring_gives_the_averages_that_the_file_holds():
    table = pd.read_json(JUDGMENTS, lines=True)
    table = table[table.score != -1]
    questions = pd.read_json(FASTCHAT / "mt_bench" / "question.jsonl", lines=True).set_index("question_id").category
    table["category"] = table.question_id.map(questions)
    groups = by_model_judge_and_benchmark(JUDGMENTS)
    assert {model for model, _, _ in groups} == set(table.model)
    for (model, judge, benchmark), lines in groups.items():
        assert (judge, benchmark) == ("gpt-4", "")
        rows = table[table.model == model]
        expected = {"rating": rows.score.mean(), "rating_without_coding": rows[rows.category != "coding"].score.mean()}
        expected |= {f"rating_{name}": value for name, value in rows.groupby("category").score.mean().items()}
        expected |= {f"rating_turn_{turn}": value for turn, value in rows.groupby("turn").score.mean().items()}
        turns = judged_turns(lines, questions.to_dict())
        found = {metric: average(some) for metric, some in parts(turns).items()}
        assert found == pytest.approx(expected, abs=1e-12)
        assert unparsed(turns) == (1 if model == "mistral-orpo" else 0)


@needs_fastchat
def test_the_command_prints_them(capsys):
    assert main(["rescore", str(JUDGMENTS)]) == 0
    out = capsys.readouterr().out
    assert "mistral-orpo-trl, judged by gpt-4\n  rating                     7.1656  160 turns" in out  # pandas' mean
    assert "judgments 320, without a rating 1" in out
    assert "differ" not in out


@needs_fastchat
def test_the_published_files_have_the_pinned_fingerprints():
    import yaml

    conf = Path(__file__).resolve().parents[2] / "conf" / "eval"
    for name, categories in (("mt_bench", 8), ("vicuna_bench", 9)):
        pinned = yaml.safe_load((conf / f"{name}.yaml").read_text())["judge"]["benchmarks"]
        bench = bench_at(FASTCHAT, name, pinned[name])
        assert (len(bench.questions), len({q.category for q in bench.questions})) == (80, categories)


def judgment(question, turn, text, *, repeat=0, user="P", judge="j", **more):
    line = {"question_id": question, "model": "m", "judge": [judge, "single-v1"], "user_prompt": user}
    return line | {"judgment": text, "turn": turn, "repeat": repeat, "score": rating(text), **more}


def test_the_median_of_repeats_counts_and_their_range_is_told():
    lines = [judgment(1, 1, f"[[{n}]]", repeat=i) for i, n in enumerate((2, 9, 3))]
    lines += [judgment(1, 2, "[[4]]"), judgment(1, 2, "none", repeat=1), judgment(1, 2, "[[6]]", repeat=2)]
    lines += [judgment(2, 1, "none"), judgment(2, 1, "nor here", repeat=1)]
    turns = judged_turns(lines, {1: "writing", 2: "coding"})
    assert [turn.median for turn in turns] == [3, 5, None]
    assert average(turns) == 4
    assert unparsed(turns) == 3
    assert spread(turns) == (7 + 2) / 2
    assert average(parts(turns)["rating_coding"]) is None


def test_two_answers_to_one_question_are_two_not_repeats():
    turns = judged_turns([judgment(1, 1, "[[2]]", user="a"), judgment(1, 1, "[[9]]", user="b")], {})
    assert [turn.median for turn in turns] == [2, 9]


def test_two_judges_are_never_averaged(tmp_path, capsys):
    path = tmp_path / "both.jsonl"
    lines = [judgment(1, 1, "[[2]]"), judgment(1, 1, "[[8]]", judge="other")]
    write_lines(path, [*lines, judgment(1, 1, "[[5]]", judge_model="j-2025")])
    assert main(["rescore", str(path)]) == 0
    out = capsys.readouterr().out
    for judge, value in (("j", "2.0000"), ("other", "8.0000"), ("j (served j-2025)", "5.0000")):
        assert re.search(rf"m, judged by {re.escape(judge)}\n  rating +{value}", out)
    assert "no categories: give --questions" in out


def test_a_changed_score_is_told(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    write_lines(path, [judgment(1, 1, "[[2]]") | {"score": 9}])
    main(["rescore", str(path)])
    assert "1 ratings differ from the score stored beside them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a file"),
        ("", "holds no judgments"),
        ('{"a": 1}\n', "judgment 1 has no question_id"),
        ("x\n", "line 1"),
    ],
)
def test_what_cannot_be_rescored_is_said(tmp_path, capsys, text, message):
    path = tmp_path / "a.jsonl"
    if text is not None:
        path.write_text(text)
    assert main(["rescore", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_benchmark_is_read(tmp_path):
    bench = bench_at(write_bench(tmp_path))
    assert [q.reference for q in bench.questions] == [(), ("REF2A", "REF2B"), ("REF3A", "REF3B")]
    assert bench_at(tmp_path / "mt_bench").fingerprint == bench.fingerprint
    both = JudgeConfig({"mt_bench": None, "vicuna_bench": None}, data=str(tmp_path / "mt_bench"))
    with pytest.raises(UserError, match=r"holds no mt_bench/question\.jsonl"):  # one benchmark's folder is not of two
        load_benches(both, HubConfig())
    answers = [{"question_id": 2, "choices": [{"turns": ["A {x}", "B"]}]}]
    first, second = asks(bench, answers, 1)
    assert (first.system, first.user) == ("S", "Q pogo fevason eats R REF2A A A {x}")
    assert second.user == "Q pogo fevason eats R REF2A Q sign of sofe ruvoson R REF2B A A {x} A B"


def test_a_mirror_is_read(tmp_path):
    write_bench(tmp_path / "datasets" / "lm-sys" / "FastChat")
    [bench] = load_benches(JudgeConfig({"mt_bench": None}), HubConfig(mirror=str(tmp_path)))
    assert len(bench.questions) == 3


def test_what_a_judge_is_shown_is_in_the_fingerprint(tmp_path):
    found = {bench_at(write_bench(tmp_path / "a")).fingerprint}
    found.add(bench_at(write_bench(tmp_path / "b", questions=QUESTIONS[:2])).fingerprint)
    changed = json.loads(json.dumps(REFERENCES).replace("REF2A", "REF"))
    found.add(bench_at(write_bench(tmp_path / "c", references=changed)).fingerprint)
    prompts = write_bench(tmp_path / "d") / "judge_prompts.jsonl"
    prompts.write_text(prompts.read_text().replace('"S"', '"T"'))
    found.add(bench_at(tmp_path / "d").fingerprint)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": "/nowhere"}, r"eval.judge.data=/nowhere is not a folder"),
        ({"data": None}, r"no questions for mt_bench: give eval.judge.data"),
        ({"name": "vicuna_bench"}, r"holds no vicuna_bench/question.jsonl"),
        (
            {"fingerprint": "1234"},
            r"is not the published mt_bench: its fingerprint is \w{16}, not 1234; .*benchmarks.mt_bench=",
        ),
    ],
)
def test_data_that_are_not_there_or_not_the_published_are_refused(tmp_path, changed, message):
    write_bench(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        bench_at(tmp_path, **changed)
    assert "\n" not in str(error.value)


def test_a_missing_reference_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no reference for every turn of question 3 \(coding\)"):
        bench_at(write_bench(tmp_path, references=REFERENCES[:1]))


def test_more_turns_than_there_are_prompts_for_are_refused(tmp_path):
    questions = [{**QUESTIONS[0], "turns": ["a", "b", "c"]}]
    with pytest.raises(UserError, match="question 1 has 3 turns, not 1 or 2"):
        bench_at(write_bench(tmp_path, questions=questions))


def test_a_journal_survives_a_kill_in_the_middle_of_a_line(tmp_path):
    path = tmp_path / "a" / "j.jsonl"
    Journal(path).append({"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2')  # killed here
    journal = Journal(path)
    assert journal.lines == [{"n": 1}]
    journal.append({"n": 3})
    assert read_lines(path) == [{"n": 1}, {"n": 3}]
