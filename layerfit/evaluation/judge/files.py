"""FastChat's files: questions, references and prompts of a benchmark; answers and judgments, appended line by line.

Formats: github.com/lm-sys/FastChat, fastchat/llm_judge (data/<bench>/question.jsonl, reference_answer/gpt-4.jsonl,
model_answer/<id>.jsonl, model_judgment/<judge>_single.jsonl; data/judge_prompts.jsonl).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import HubConfig
from layerfit.errors import UserError
from layerfit.models.hub import DATASETS, local_copy

JsonLine = dict[str, Any]

REPOSITORY = "lm-sys/FastChat"
"""Name of FastChat's data folder in a mirror: `datasets/lm-sys/FastChat`."""
REFERENCE = "gpt-4"
"""The model whose reference answers every judge is shown: FastChat publishes only these."""
NEED_REFERENCE = ("math", "reasoning", "coding")
"""Categories judged with a reference answer (FastChat: NEED_REF_CATS)."""
PROMPTS = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


@dataclass(frozen=True)
class Question:
    """One question: its turns, and the reference answers of a category that needs them (else empty)."""

    id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bench:
    """A benchmark. fingerprint: hash of everything that a judge is shown except the answers."""

    name: str
    questions: tuple[Question, ...]
    prompts: dict[str, JsonLine]
    fingerprint: str


def read_lines(path: Path) -> list[JsonLine]:
    """Return the objects of a JSON-lines file (or a .gz of one), without an incomplete last line.

    Raises:
        UserError: if a line is not an object, naming it.
    """
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    out = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            if number > raw.count(b"\n"):  # cut off by a kill
                continue
            raise UserError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number} is not a JSON object")
        out.append(value)
    return out


def answer_turns(line: JsonLine) -> list[str]:
    """Return the turns of an answer's first choice."""
    return list(line["choices"][0]["turns"])


def bench_folder(config: JudgeConfig, name: str, hub: HubConfig) -> Path:
    """Return the folder of a benchmark's files.

    Raises:
        UserError: if it is not there.
    """
    if config.data is not None:
        root, what = Path(config.data), f"eval.judge.data={config.data}"
    else:
        found = local_copy(DATASETS, REPOSITORY, hub)
        if found is None:
            raise UserError(
                f"no questions for {name}: give eval.judge.data=<folder> (fastchat/llm_judge/data of "
                f"{REPOSITORY}), or put that folder at {hub.mirror or '<hub.mirror>'}/{DATASETS}/{REPOSITORY}"
            )
        root, what = found, str(found)
    if not root.is_dir():
        raise UserError(f"{what} is not a folder; give fastchat/llm_judge/data of {REPOSITORY}, or a copy of it")
    alone = len(config.benchmarks) == 1 and (root / "question.jsonl").is_file()  # a benchmark's own folder
    folder = root if alone else root / name
    if not (folder / "question.jsonl").is_file():
        raise UserError(f"{what} holds no {name}/question.jsonl; give fastchat/llm_judge/data of {REPOSITORY}")
    return folder


def load_benches(config: JudgeConfig, hub: HubConfig) -> list[Bench]:
    """Return the benchmarks of `eval.judge.benchmarks`, in order; raises as `load_bench`."""
    return [load_bench(config, name, hub) for name in config.benchmarks]


def load_bench(config: JudgeConfig, name: str, hub: HubConfig) -> Bench:
    """Return a benchmark, checked against its fingerprint in `eval.judge.benchmarks`.

    Raises:
        UserError: if a file or a reference is missing, a line is malformed, or the fingerprint differs.
    """
    folder = bench_folder(config, name, hub)
    prompts = _prompts(folder)
    references = {}
    if (path := folder / "reference_answer" / f"{REFERENCE}.jsonl").is_file():
        references = {line["question_id"]: tuple(answer_turns(line)) for line in read_lines(path)}
    try:
        questions = tuple(_question(line, references) for line in read_lines(folder / "question.jsonl"))
    except KeyError as error:
        raise UserError(f"{folder}/question.jsonl: a question without {error}; copy the file again") from error
    for question in questions:
        if len(question.turns) not in (1, 2):
            raise UserError(
                f"{folder}/question.jsonl: question {question.id} has {len(question.turns)} turns, not 1 or 2"
            )
        if question.category in NEED_REFERENCE and len(question.reference) != len(question.turns):
            raise UserError(f"{path} has no reference for every turn of question {question.id} ({question.category})")
    if not questions:
        raise UserError(f"{folder}/question.jsonl holds no questions; copy it again")
    found = _fingerprint(questions, prompts)
    if (pinned := config.benchmarks[name]) not in (None, found):
        raise UserError(
            f"{folder} is not the published {name}: its fingerprint is {found}, not {pinned}; "
            f"copy it again, or pin this version with eval.judge.benchmarks.{name}={found}"
        )
    return Bench(name, questions, prompts, found)


def _question(line: JsonLine, references: dict[int, tuple[str, ...]]) -> Question:
    needs = line["category"] in NEED_REFERENCE
    reference = references.get(line["question_id"], ()) if needs else ()
    return Question(line["question_id"], line["category"], tuple(line["turns"]), reference)


def _prompts(folder: Path) -> dict[str, JsonLine]:
    """Return the prompts of single-answer grading, from the folder of all benchmarks."""
    paths = [folder.parent / "judge_prompts.jsonl", folder / "judge_prompts.jsonl"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"no judge_prompts.jsonl in {folder.parent}; copy it from fastchat/llm_judge/data")
    prompts = {line["name"]: line for line in read_lines(path) if line.get("name") in PROMPTS}
    if missing := [name for name in PROMPTS if name not in prompts]:
        raise UserError(f"{path} has no prompt {missing[0]}; copy it again")
    return prompts


def _fingerprint(questions: tuple[Question, ...], prompts: dict[str, JsonLine]) -> str:
    shown = [[q.id, q.category, q.turns, q.reference] for q in questions]
    texts = [[name, prompts[name]["system_prompt"], prompts[name]["prompt_template"]] for name in PROMPTS]
    return hashlib.blake2s(json.dumps([shown, texts]).encode(), digest_size=8).hexdigest()


class Journal:
    """An append-only JSON-lines file that survives a kill: opening it removes an incomplete last line."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = path.read_bytes() if path.exists() else b""
        if not raw.endswith(b"\n") and raw:
            os.truncate(path, raw.rfind(b"\n") + 1)
        self.lines = read_lines(path) if raw else []

    def append(self, line: JsonLine) -> None:
        """Write a line to the disk; thread-safe."""
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.lines.append(line)
