"""FastChat's files: questions, references and prompts of a benchmark; answers and judgments, appended line by line.

Formats: github.com/lm-sys/FastChat, fastchat/llm_judge (data/<bench>/question.jsonl, reference_answer/gpt-4.jsonl,
model_answer/<id>.jsonl, model_judgment/<judge>_single.jsonl; data/judge_prompts.jsonl).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import HubConfig
from layerfit.errors import UserError
from layerfit.files.shown import one_line
from layerfit.files.writing import write_atomically
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
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {one_line(str(error))}; copy it again") from error
    out = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            out.append(_object(line))
        except (ValueError, RecursionError) as error:
            if number > raw.count(b"\n"):  # cut off by a kill
                continue
            raise UserError(f"{path}, line {number}: {one_line(str(error))[:100]}") from error
    return out


def _object(line: bytes) -> JsonLine:
    """Return the object in a line.

    Raises:
        ValueError: if it holds something else.
        RecursionError: if it is nested too deeply.
    """
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


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


def line_bytes(line: JsonLine) -> bytes:
    """Return an object as a line of a file: text as it is, or escaped where no encoding could write it."""
    try:
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(line).encode() + b"\n"


def _typed(line: JsonLine, kinds: dict[str, type], needed: int) -> str | None:
    """Return which of some keys is missing (of the first `needed`) or of another type, None if none is."""
    for number, (name, kind) in enumerate(kinds.items()):
        value = line.get(name)
        if value is None and number >= needed:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"no {name}" if name not in line else f"a {name} that is a {type(value).__name__}"
    return None


def judgment_fault(line: JsonLine) -> str | None:
    """Return what a line of a file of judgments lacks, or has instead, None if it is one."""
    kinds: dict[str, type] = {"question_id": int, "model": str, "judge": list, "user_prompt": str, "judgment": str}
    kinds |= {"turn": int, "finish_reason": str, "judge_model": str, "category": str, "benchmark": str}
    if (fault := _typed(line, kinds | {"repeat": int, "parameters": dict}, 6)) is not None:
        return fault
    return None if [type(part) for part in line["judge"]] == [str, str] else "a judge that is not two names"


def answer_fault(line: JsonLine) -> str | None:
    """Return what a line of a file of answers lacks, or has instead, None if it is one."""
    if (fault := _typed(line, {"question_id": int, "choices": list}, 2)) is not None:
        return fault
    for choice in line["choices"][:1]:
        if isinstance(choice, dict) and _texts(choice.get("turns")) and _texts(choice.get("finish", [])):
            return None
    return "no choice with turns"


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


Fault = Callable[[JsonLine], str | None]


class Journal:
    """An append-only JSON-lines file that survives a kill, and lines that something else has broken.

    Opening it takes such lines out: what they held is asked for again. An incomplete last line is what a kill leaves;
    others are named and kept in `<file>.broken`. fault: says what is wrong with an object.
    """

    def __init__(self, path: Path, fault: Fault = lambda _: None) -> None:
        self.path, self._lock = path, Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = path.read_bytes() if path.exists() else b""
        self.lines: list[JsonLine] = []
        kept, broken = [], {}
        *whole, cut = raw.split(b"\n")
        for number, text in enumerate(whole, 1):
            try:
                line, wrong = _object(text), None
                wrong = fault(line)
            except (ValueError, RecursionError) as error:
                wrong = " ".join(str(error).split())[:100]
            if wrong is None:
                self.lines.append(line)
                kept.append(text + b"\n")
            elif text.strip():
                broken[number] = (wrong, text)
        if broken:
            self._set_aside(broken)
        if broken or cut:
            write_atomically(path, b"".join(kept))

    def _set_aside(self, broken: dict[int, tuple[str, bytes]]) -> None:
        aside = self.path.with_name(f"{self.path.name}.broken")
        with aside.open("ab") as file:
            file.write(b"".join(text + b"\n" for _, text in broken.values()))
        number, (wrong, _) = next(iter(broken.items()))
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        print(
            f"layerfit: {self.path}, line {number}{more}: {one_line(wrong)}; moved to {aside.name} and asked for again",
            file=sys.stderr,
        )

    def append(self, line: JsonLine) -> None:
        """Write a line to the disk; thread-safe."""
        data = line_bytes(line)
        with self._lock:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.lines.append(line)
