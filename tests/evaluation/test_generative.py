"""The generative protocol asks what LLM-Adapters published, byte for byte, and reads answers as it did."""

import json
import re

import pytest

from layerfit.config.schema import EvalConfig, HubConfig, TaskConfig
from layerfit.data.sources import load_folder
from layerfit.errors import UserError
from layerfit.evaluation import generative
from layerfit.evaluation.generative import Generation, evaluate, outcomes
from layerfit.evaluation.generative_tasks import GROUPS, TASKS, Item, expand, load_items, read_item
from layerfit.evaluation.lm_eval.tasks import definitions, stock_folder
from tests.evaluation.test_command_line import MIRROR, needs_mirror

PUBLISHED = MIRROR.parent / "llm_adapters"
HUB = HubConfig(mirror=str(MIRROR), offline=True)
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"no published files at {PUBLISHED}")


def config(*names, **extra):
    tasks = [TaskConfig(name=name, protocol="generative") for name in names]
    return EvalConfig(**{"name": "t", "tasks": tasks} | extra)


def published(task):
    rows = json.loads((PUBLISHED / task / "test.json").read_text())
    return [Item(row["instruction"], row["answer"]) for row in rows]


@needs_published
@pytest.mark.parametrize(("ours", "theirs"), [("piqa", "piqa"), ("social_iqa", "social_i_qa")])
def test_items_equal_the_published_files(ours, theirs):
    assert load_items(f"{ours}_generative", HUB) == published(theirs)


@needs_published
def test_winogrande_equals_the_published_file():
    rest = load_folder(MIRROR / "datasets/allenai/winogrande", "winogrande_xl")[
        "train"
    ]  # this mirror's validation is cut
    rows = [read_item("winogrande_generative", row) for row in rest.to_list()]
    assert load_items("winogrande_generative", HUB) + rows == published("winogrande")


@needs_published
def test_arc_easy_equals_the_published_file():
    """In this mirror 11 questions have another number of options (all have 4), and keys 1-4 became the next letter."""
    ours, theirs = load_items("arc_easy_generative", HUB), published("ARC-Easy")
    four = [i for i, item in enumerate(theirs) if item.instruction.endswith("answer1/answer2/answer3/answer4")]
    assert len(ours) == len(theirs) == len(four) + 11
    assert [ours[i].instruction for i in four] == [theirs[i].instruction for i in four]
    assert sum(ours[i] == theirs[i] for i in four) >= 2376 - 11 - 71


@needs_mirror
def test_the_templates_of_boolq_arc_and_openbookqa_are_the_published_ones():
    """The training set of LLM-Adapters, taken apart into what the hub's rows hold, is built again byte for byte."""
    data = load_folder(MIRROR / "datasets/zwhe99/commonsense_170k", None)["train"].to_list()
    for row in data:
        text, answer = row["instruction"], row["answer"]
        if found := re.fullmatch(r"Please answer .* question: (.*)\?\n\nAnswer format: true/false", text, re.DOTALL):
            item = read_item("boolq_generative", {"question": found[1], "passage": "none", "label": answer == "true"})
        else:
            found = re.fullmatch(r".*? question: (.*)\n\nAnswer1: (.*)\n\nAnswer format: \S*", text, re.DOTALL)
            options = re.split(r" Answer\d: ", found[2])
            labels = [str(i) for i in range(1, len(options) + 1)]
            choices = {"text": options, "label": labels}
            question = {"question_stem": found[1], "choices": choices, "answerKey": answer[-1]}
            item = read_item("openbookqa_generative", question)
        assert item == Item(text, answer)
    assert len(data) == 17754


QUESTIONS = [
    (
        "hellaswag_generative",
        {"activity_label": "Travel", "ctx": "[header] How to [title] Go.", "endings": list("wxyz"), "label": "1"},
        "Please choose the correct ending to complete the given sentence: Travel: [header] How to [title] Go.\n\n"
        "Ending1: w Ending2: x Ending3: y Ending4: z\n\nAnswer format: ending1/ending2/ending3/ending4",
        "ending2",
    ),
    (
        "arc_challenge_generative",
        {"question": "Q?", "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}, "answerKey": "C"},
        "Please choose the correct answer to the question: Q?\n\nAnswer1: a Answer2: b Answer3: c\n\n"
        "Answer format: answer1/answer2/answer3",
        "answer3",
    ),
    ("gsm8k_generative", {"question": "How  many?", "answer": "9 - 3 = 6\n#### 1,234"}, "How  many?", "1234"),
    ("mawps_generative", {"instruction": "Joan found 70 .", "answer": "-15.0"}, "Joan found 70 .", "-15.0"),
    (
        "svamp_generative",
        {"Body": "There are 8 kids on monday", "Question": "How many?", "Answer": 22.0},
        "There are 8 kids on monday. How many?",
        "22.0",
    ),
    (
        "aqua_generative",
        {"question": "Except ", "options": ["A)(99,10)", "B)(85,9)"], "correct": "B"},
        "Except Answer Choices: (A)  (99,10)  (B)  (85,9) ",
        "B",
    ),
]
"""Rows as the hub has them, and what the published files make of such rows."""


@pytest.mark.parametrize(("task", "row", "instruction", "answer"), QUESTIONS)
def test_rows_become_the_published_instructions(task, row, instruction, answer):
    assert read_item(task, row) == Item(instruction, answer)


def test_the_prompt_is_the_published_one():
    header = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request. "
    )
    lines = [header, "", "### Instruction:", "Is {it}?", "", "Answer format: true/false", "", "### Response:", ""]
    indented = [line if i in (0, 1, 4, 5, 6) else " " * 16 + line for i, line in enumerate(lines)]
    assert Item("Is {it}?\n\nAnswer format: true/false", "true").prompt() == "\n".join(indented)


TRICKY = [
    ("boolq_generative", "the correct answer is true", "true"),
    ("boolq_generative", "True", None),  # the published pattern knows no capitals
    ("boolq_generative", "untrue, so false", "true"),  # and no words
    ("piqa_generative", "the correct answer is solution", None),
    ("piqa_generative", "solution2 not solution1", "solution2"),
    ("piqa_generative", "solution12", "solution1"),
    ("arc_easy_generative", "answer6 answer5", "answer5"),
    ("social_iqa_generative", "Answer3", None),
    ("hellaswag_generative", "", None),
    ("winogrande_generative", "option3\n\n  ### Response:\n option1", None),  # it goes on to ask itself
    ("gsm8k_generative", "1,000 plus 234 is 1,234.", "1234."),
    ("gsm8k_generative", "The answer is -0.5%", "-0.5"),
    ("gsm8k_generative", "5-3", "-3"),
    ("gsm8k_generative", "none", None),
    ("aqua_generative", "The answer is (C).", "C"),
    ("aqua_generative", "Because it is (C)", "B"),
    ("aqua_generative", "the answer is (c)", None),
]


@pytest.mark.parametrize(("task", "text", "found"), TRICKY)
def test_answers_are_read_as_published(task, text, found):
    assert TASKS[task].reading.find(text) == found


def test_numbers_agree_within_a_thousandth():
    items = [Item("q", "12.0")] * 4
    texts = ["12", "12.0009", "12.002", "twelve"]
    found = outcomes("gsm8k_generative", items, [Generation(text, truncated=False) for text in texts])
    assert found == {"acc": [1, 1, 0, 0], "unparsed": [0, 0, 0, 1], "truncated": [0, 0, 0, 0]}


@pytest.fixture
def small(monkeypatch):
    """Two tasks of a group, four and two items; a model that says `solution1`, nothing, then `answer1`."""
    items = {"piqa_generative": [Item(f"q{i}", "solution1") for i in range(4)]}
    items["social_iqa_generative"] = [Item(f"s{i}", f"answer{i + 1}") for i in range(2)]
    said = {"q1": "", "q3": "solution2"} | dict.fromkeys(("s0", "s1"), "answer1")

    def generate(model, tokenizer, prompts, *rest):
        names = [prompt.split("Instruction:\n")[1].split("\n")[0].strip() for prompt in prompts]
        return [Generation(said.get(name, "is solution1"), truncated=name == "s1") for name in names]

    monkeypatch.setattr(generative, "load_items", lambda name, _: items[name])
    monkeypatch.setattr(generative, "generate", generate)
    monkeypatch.setitem(GROUPS, "both_generative", tuple(items))


def test_scores_and_items(small):
    scores, items = evaluate(None, None, config("both_generative"), HubConfig(), "cpu")
    by_key = {score.key: score for score in scores}
    assert items["piqa_generative/acc"] == [1, 0, 1, 0]
    assert items["piqa_generative/unparsed"] == [0, 1, 0, 0]
    assert items["social_iqa_generative/acc"] == [1, 0]
    assert items["social_iqa_generative/truncated"] == [0, 1]
    assert by_key["both_generative/acc"].value == 0.5
    assert by_key["both_generative/unparsed"].value == 0.125  # the tasks count the same, not the items
    assert by_key["both_generative/acc"].stderr == pytest.approx(((1 / 3 / 4) + (1 / 2 / 2)) ** 0.5 / 2)
    assert (by_key["both_generative/acc"].num_items, by_key["both_generative/acc"].num_available) == (6, 6)
    assert not any(score.data_complete for score in scores)
    better = {score.metric: score.higher_is_better for score in scores}
    assert better == {"acc": True, "unparsed": False, "truncated": False}
    assert "both_generative/acc" not in items


def test_a_limit_shows(small):
    scores, items = evaluate(None, None, config("piqa_generative", limit=3), HubConfig(), "cpu")
    assert {(score.num_items, score.num_available) for score in scores} == {(3, 4)}
    assert items["piqa_generative/acc"] == [1, 0, 1]
    full, _ = evaluate(None, None, config("piqa_generative"), HubConfig(), "cpu")
    assert full[0].docs != scores[0].docs


def test_no_generative_name_is_a_name_of_lm_eval():
    assert not {*TASKS, *GROUPS} & set(definitions(stock_folder()))
    assert all(name.endswith("_generative") for name in [*TASKS, *GROUPS])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([TaskConfig(name="boolq")], "no generative task 'boolq'; use one of: commonsense_generative"),
        ([TaskConfig(name="boolq_generative", num_fewshot=3)], "has num_fewshot=3 but takes no shots"),
        ([TaskConfig(name=n) for n in ("boolq_generative", "commonsense_generative")], "boolq_generative twice"),
    ],
)
def test_what_is_asked_wrongly_is_named(tasks, message):
    with pytest.raises(UserError, match=message):
        expand(EvalConfig(name="t", tasks=tasks))


def test_rows_of_another_kind_are_named():
    with pytest.raises(
        UserError, match="piqa_generative cannot read a row of baber/piqa: no column 'sol1'; its columns are x"
    ):
        read_item("piqa_generative", {"x": 1})
    with pytest.raises(UserError, match="no number in the answer 'many'"):
        read_item("gsm8k_generative", {"question": "q", "answer": "many"})
