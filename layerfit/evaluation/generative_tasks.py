r"""The generative protocol of LLM-Adapters (arXiv:2304.01933): instructions, and the parsing of answers.

The commonsense and arithmetic numbers of LLM-Adapters, DoRA and IST are the share of generated texts whose first (for
numbers: last) match of a pattern is the answer. lm-eval's tasks of the same names compare log-likelihoods under other
prompts, so these have names of their own (`_generative`). The instructions are built from the hub's data sets and equal
the published `dataset/<task>/test.json` byte for byte. This module imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layerfit.config.schema import DatasetConfig, EvalConfig, HubConfig
from layerfit.data.json_rows import RawRow
from layerfit.data.reading import first_row
from layerfit.data.sources import Part, read_rows
from layerfit.errors import UserError
from layerfit.files.dataset_folder import data_files
from layerfit.models.hub import dataset_source

INDENT = " " * 16
HEADER = "Below is an instruction that describes a task. Write a response that appropriately completes the request. "
PROMPT = f"{HEADER}\n\n{INDENT}### Instruction:\n{INDENT}{{instruction}}\n\n{INDENT}### Response:\n{INDENT}"
"""The evaluation prompt of LLM-Adapters. The space after the header and the 16 before each line are an accident of a
Python literal, but the published numbers were made with them."""
RESPONSE = "### Response:"


@dataclass(frozen=True)
class Item:
    """One question and its right answer, in the form that the pattern matches."""

    instruction: str
    answer: str

    def prompt(self) -> str:
        """Return the model's prompt."""
        return PROMPT.replace("{instruction}", self.instruction)


@dataclass(frozen=True)
class Reading:
    """Parsing of an answer: the first or last match of a pattern."""

    pattern: str
    last: bool = False
    number: bool = False

    def find(self, text: str) -> str | None:
        """Return the answer in a generated text, None if there is none.

        The text is cut at another `### Response:`, as in the published code.
        """
        text = text.split(RESPONSE)[0]
        found = re.findall(self.pattern, text.replace(",", "") if self.number else text)
        return found[-1 if self.last else 0] if found else None

    def right(self, found: str | None, answer: str) -> bool:
        """Return whether a match is the right answer; numbers within 0.001, as published."""
        if found is None:
            return False
        return abs(float(found) - float(answer)) <= 1e-3 if self.number else found == answer


BOOLEAN = Reading("true|false")
SOLUTION = Reading("solution1|solution2")
ANSWER = Reading("answer1|answer2|answer3|answer4|answer5")
ENDING = Reading("ending1|ending2|ending3|ending4")
OPTION = Reading("option1|option2")
NUMBER = Reading(r"-?\d+\.?\d*", last=True, number=True)
LETTER = Reading("A|B|C|D|E")


def _listed(word: str, choices: list[str], between: str = " ") -> str:
    return between.join(f"{word}{i}: {choice}" for i, choice in enumerate(choices, 1))


def _formats(word: str, number: int) -> str:
    return "Answer format: " + "/".join(f"{word}{i}" for i in range(1, number + 1))


def boolq(row: RawRow) -> Item:
    """Without its passage, as published."""
    ask = f"Please answer the following question with true or false, question: {row['question']}?"
    return Item(f"{ask}\n\nAnswer format: true/false", "true" if row["label"] else "false")


def piqa(row: RawRow) -> Item:
    """Two solutions, each a paragraph."""
    choices = _listed("Solution", [row["sol1"], row["sol2"]], "\n\n")
    ask = f"Please choose the correct solution to the question: {row['goal']}"
    return Item(f"{ask}\n\n{choices}\n\n{_formats('solution', 2)}", f"solution{int(row['label']) + 1}")


def _question(question: str, choices: list[str], right: int) -> Item:
    ask = f"Please choose the correct answer to the question: {question}"
    options = f"{_listed('Answer', choices)}\n\n{_formats('answer', len(choices))}"
    return Item(f"{ask}\n\n{options}", f"answer{right}")


def social_iqa(row: RawRow) -> Item:
    """Context and question joined; labels count from 1."""
    choices = [row["answerA"], row["answerB"], row["answerC"]]
    return _question(f"{row['context']} {row['question']}", choices, int(row["label"]))


def multiple_choice(row: RawRow) -> Item:
    """ARC and OpenBookQA: three to five options; the key is one of the labels, letters or digits."""
    question = row["question"] if "question" in row else row["question_stem"]
    choices = row["choices"]
    return _question(question, list(choices["text"]), list(choices["label"]).index(row["answerKey"]) + 1)


def hellaswag(row: RawRow) -> Item:
    """The context unchanged, including bracketed tags."""
    ask = f"Please choose the correct ending to complete the given sentence: {row['activity_label']}: {row['ctx']}"
    choices = f"{_listed('Ending', row['endings'])}\n\n{_formats('ending', 4)}"
    return Item(f"{ask}\n\n{choices}", f"ending{int(row['label']) + 1}")


def winogrande(row: RawRow) -> Item:
    """The answer format on the line of the options, as published."""
    ask = f"Please choose the correct answer to fill in the blank to complete the given sentence: {row['sentence']}"
    choices = f"{_listed('Option', [row['option1'], row['option2']])} {_formats('option', 2)}"
    return Item(f"{ask}\n\n{choices}", f"option{int(row['answer'])}")


def _number(text: str) -> str:
    """Return the final number of a worked answer (in GSM8K after `####`)."""
    found = NUMBER.find(text.rpartition("####")[2])
    if found is None:
        raise UserError(f"no number in the answer {text!r}; is the data complete?")
    return found


def gsm8k(row: RawRow) -> Item:
    """The question alone."""
    return Item(row["question"], _number(row["answer"]))


def mawps(row: RawRow) -> Item:
    """The question and its number; accepts the published file's own rows too (instruction, answer)."""
    return Item(row["instruction"] if "instruction" in row else row["question"], _number(str(row["answer"])))


def svamp(row: RawRow) -> Item:
    """Body and question, a full stop between them."""
    body = row["Body"].strip()
    return Item(f"{body}{'' if body.endswith('.') else '.'} {row['Question'].strip()}", _number(str(row["Answer"])))


def aqua(row: RawRow) -> Item:
    """Options in the format of zero-shot-CoT (arXiv:2205.11916), as in the published file: ` (A) 21 (B) 22`."""
    options = "".join(f"({option}" for option in row["options"]).replace("(", " (").replace(")", ") ")
    return Item(f"{row['question'].strip()} Answer Choices:{options}", row["correct"])


@dataclass(frozen=True)
class GenerativeTask:
    """A task: the source of its items, their prompts, and the parsing of answers.

    num_items: of the published test set. max_new_tokens: 32 for commonsense, 256 for arithmetic, as published.
    """

    dataset: str
    subset: str | None
    splits: tuple[str, ...]
    item: Callable[[RawRow], Item]
    reading: Reading
    num_items: int
    max_new_tokens: int = 32


_COMMONSENSE = {
    "boolq_generative": GenerativeTask("aps/super_glue", "boolq", ("validation",), boolq, BOOLEAN, 3270),
    "piqa_generative": GenerativeTask("baber/piqa", None, ("validation",), piqa, SOLUTION, 1838),
    "social_iqa_generative": GenerativeTask("lighteval/siqa", None, ("validation",), social_iqa, ANSWER, 1954),
    "hellaswag_generative": GenerativeTask("Rowan/hellaswag", None, ("validation",), hellaswag, ENDING, 10042),
    "winogrande_generative": GenerativeTask(
        "allenai/winogrande", "winogrande_xl", ("validation",), winogrande, OPTION, 1267
    ),
    "arc_easy_generative": GenerativeTask("allenai/ai2_arc", "ARC-Easy", ("test",), multiple_choice, ANSWER, 2376),
    "arc_challenge_generative": GenerativeTask(
        "allenai/ai2_arc", "ARC-Challenge", ("test",), multiple_choice, ANSWER, 1172
    ),
    "openbookqa_generative": GenerativeTask("allenai/openbookqa", "main", ("test",), multiple_choice, ANSWER, 500),
}
_ARITHMETIC = {
    "gsm8k_generative": GenerativeTask("openai/gsm8k", "main", ("test",), gsm8k, NUMBER, 1319, 256),
    "aqua_generative": GenerativeTask("deepmind/aqua_rat", "raw", ("test",), aqua, LETTER, 254, 256),
    # The published 238 items are not a split on the hub; its 355 are recorded as not the published set.
    "mawps_generative": GenerativeTask("garrethlee/MAWPS", None, ("test",), mawps, NUMBER, 238, 256),
    "svamp_generative": GenerativeTask("ChilleD/SVAMP", None, ("train", "test"), svamp, NUMBER, 1000, 256),
}
TASKS: dict[str, GenerativeTask] = _COMMONSENSE | _ARITHMETIC
GROUPS: dict[str, tuple[str, ...]] = {
    "commonsense_generative": tuple(_COMMONSENSE),
    "arithmetic_generative": tuple(_ARITHMETIC),
}
"""A group runs its tasks and adds their unweighted mean, the papers' `Avg.`."""


def expand(config: EvalConfig) -> list[str]:
    """Return the tasks of an evaluation, with groups expanded.

    Raises:
        UserError: if a name is unknown, listed twice, or has shots.
    """
    names: list[str] = []
    for task in config.tasks:
        if task.name not in TASKS and task.name not in GROUPS:
            known = ", ".join([*GROUPS, *TASKS])
            raise UserError(f"eval={config.name} has no generative task {task.name!r}; use one of: {known}")
        if task.num_fewshot:
            raise UserError(f"generative task {task.name} has num_fewshot={task.num_fewshot} but takes no shots; set 0")
        names += GROUPS.get(task.name, (task.name,))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"eval={config.name} lists {twice[0]} twice; leave out the task or its group")
    return names


def read_item(name: str, row: RawRow) -> Item:
    """Return a row as an item.

    Raises:
        UserError: if the row lacks a column of the task, or has a wrong value.
    """
    try:
        return TASKS[name].item(row)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        why = f"no column {error}" if isinstance(error, KeyError) else str(error)
        has = ", ".join(sorted(row))
        raise UserError(f"{name} cannot read a row of {TASKS[name].dataset}: {why}; its columns are {has}") from error


def load_items(name: str, hub: HubConfig) -> list[Item]:
    """Return every item of a task, in the data's order.

    Raises:
        UserError: if the data is missing or lacks a column.
    """
    task = TASKS[name]
    data = DatasetConfig(name=name, id=task.dataset, subset=task.subset)
    return [read_item(name, row) for split in task.splits for row in read_rows(data, split, hub)]


def data(config: EvalConfig) -> list[Part]:
    """Return the data that the tasks read."""
    expand(config)
    asked = [(task.name, TASKS[name]) for task in config.tasks for name in GROUPS.get(task.name, (task.name,))]
    return [Part(name, task.dataset, task.subset, split) for name, task in asked for split in task.splits]


def check(config: EvalConfig, hub: HubConfig) -> None:
    """Check the tasks, and the first row of their data where it is local.

    Raises:
        UserError: if a task is unknown, or its data is missing or lacks a column, naming the first.
    """
    for name in expand(config):
        task = TASKS[name]
        source = dataset_source(task.dataset, hub)
        if isinstance(source, Path):
            splits = data_files(source, task.subset)
            for split in task.splits:
                row = first_row(splits[split][0]) if split in splits else None
                if row is None:
                    raise UserError(
                        f"{name} needs the split {split!r} of {task.dataset}; {source} lacks it or its rows"
                    )
                read_item(name, row)
