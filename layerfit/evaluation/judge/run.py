"""Judged benchmarks from a trained model to scores: answers, judgments, averages. All raw text is kept."""

from __future__ import annotations

import dataclasses
import gzip
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import EvalConfig, HubConfig
from layerfit.evaluation.judge.answers import answer_all, check_template
from layerfit.evaluation.judge.check import KEY_SETTING, check_server
from layerfit.evaluation.judge.client import JudgeError, Messages, Server
from layerfit.evaluation.judge.files import (
    Bench,
    Journal,
    JsonLine,
    judgment_fault,
    line_bytes,
    load_benches,
)
from layerfit.evaluation.judge.local import LocalJudge
from layerfit.evaluation.judge.rating import RULE, Ask, asks, verdict
from layerfit.evaluation.judge.reply import Reply
from layerfit.evaluation.judge.scores import Scoring, judged_turns
from layerfit.evaluation.lm_eval.harness import evaluating, quiet, random_state
from layerfit.files.secrets import read_key
from layerfit.files.writing import write_atomically
from layerfit.records.record import Items, Score

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

FOLDER = "judge"
"""Subfolder of a run's folder: a data folder in FastChat's layout."""


class Judge(Protocol):
    """A rater: a server, or a model in this process."""

    def answer(self, conversations: list[Messages], keep: Callable[[int, Reply], None]) -> None:
        """Answer every conversation; `keep` gets each reply with its index, from any thread."""


def judged(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: EvalConfig,
    hub: HubConfig,
    device: torch.device | str,
    folder: Path,
) -> tuple[list[Score], Items]:
    """Generate the model's answers to every judged benchmark, and have the judge rate them.

    Answers of the same weights and judgments of the same texts in `folder` (the run's) are reused. The model is left
    on `device`, or in host memory if a local judge took its place.

    Raises:
        UserError: if a benchmark's files or the judge's settings are invalid.
        JudgeError: if the judge does not answer; the same run then continues from there.
    """
    judge_config = config.judge
    check_template(judge_config, tokenizer)
    benches = load_benches(judge_config, hub)
    asked = [dataclasses.replace(bench, questions=bench.questions[: config.limit]) for bench in benches]
    with quiet(), evaluating(model), random_state():
        model.to(device)
        answers = []
        for bench in asked:
            path = folder / FOLDER / bench.name / "model_answer" / f"{folder.name}.jsonl"
            answers.append(answer_all(model, tokenizer, judge_config, bench, path, config.batch_size))
        if judge_config.model_path is not None:
            model.to("cpu")
        name, judge = _judge(judge_config, hub, device, config.batch_size)
        lines = []
        for bench, answered in zip(asked, answers, strict=True):
            path = folder / FOLDER / bench.name / "model_judgment" / f"{_safe(name)}_single.jsonl"
            wanted = list(asks(bench, answered, judge_config.judgments))
            lines.append(judge_all(judge, name, wanted, folder.name, path))
    for kind, some in (("answers", answers), ("judgments", lines)):
        data = b"".join(line_bytes(line) for bench_lines in some for line in bench_lines)
        write_atomically(folder / FOLDER / f"{kind}.jsonl", data)
    scores: list[Score] = []
    items: Items = {}
    for whole, bench, answered, judgments in zip(benches, asked, answers, lines, strict=True):
        version = _version(judge_config, whole, name, judgments)
        pinned = judge_config.benchmarks[whole.name] is not None
        scoring = Scoring(whole, bench.questions, answered, judged_turns(judgments, {}), version, pinned)
        more, outcomes = scoring.all()
        scores, items = scores + more, items | outcomes
    return scores, items


def _judge(config: JudgeConfig, hub: HubConfig, device: torch.device | str, batch_size: int) -> tuple[str, Judge]:
    """Return the judge's name, used in its files, and the judge."""
    if config.model_path is not None:
        local = LocalJudge(config, hub, device, batch_size)
        return local.name(), local
    check_server(config, hub)
    assert config.base_url is not None, "checked"
    assert config.model is not None, "checked"
    key = read_key(KEY_SETTING, config.key_variable) if config.key_variable is not None else None
    rest = (config.max_judgment_tokens, config.timeout_s, config.max_attempts, config.parallel)
    return config.model, Server(config.base_url, config.model, key, *rest)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _version(config: JudgeConfig, bench: Bench, name: str, lines: list[JsonLine]) -> str:
    """Return the version; scores of one version are comparable: benchmark, judge (requested, reported), settings."""
    served = sorted({line["judge_model"] for line in lines if line.get("judge_model") is not None})
    reported = "+".join(served) or ("itself" if config.model_path is not None else "not reported")
    how = f"k={config.judgments};{config.template};{config.decoding};{config.max_new_tokens}"
    how += "".join(f";{way}" for way in sorted({_way(line.get("parameters") or {}) for line in lines}) if way)
    return f"single-v1;{RULE};{bench.fingerprint};judge={name};served={reported};{how}"


def _way(parameters: JsonLine) -> str:
    """Return how a server was asked, if not as usual: greedily, with `max_tokens`."""
    if not parameters:  # a judge in this process
        return ""
    other = ["max_completion_tokens"] if "max_completion_tokens" in parameters else []
    return ",".join(other if "temperature" in parameters else [*other, "temperature of its own"])


def judge_all(judge: Judge, name: str, wanted: list[Ask], model_id: str, path: Path) -> list[JsonLine]:
    """Return all wanted judgments, in order, reusing those in `path`.

    Raises:
        JudgeError: if the judge does not answer, with the number of judgments kept.
    """
    journal = Journal(path, judgment_fault)
    known = {}
    for line in journal.lines:
        known[_key(line["judge"], line["question_id"], line["turn"], line["user_prompt"], line.get("repeat", 0))] = line
    keys = [_key([name, a.prompt], a.question_id, a.turn, a.user, a.repeat) for a in wanted]
    missing = [(key, ask) for key, ask in zip(keys, wanted, strict=True) if key not in known]

    def keep(index: int, reply: Reply) -> None:
        key, ask = missing[index]
        line = _line(ask, reply, name, model_id)
        journal.append(line)
        known[key] = line

    try:
        judge.answer([ask.messages() for _, ask in missing], keep)
    except JudgeError as error:
        have = sum(key in known for key in keys)
        raise JudgeError(
            f"{error}; {have} of {len(keys)} judgments are kept, the same command requests the rest"
        ) from error
    return [known[key] for key in keys]


def _key(judge: list[str], question_id: int, turn: int, user: str, repeat: int) -> tuple[object, ...]:
    return (*judge, question_id, turn, user, repeat)


def _line(ask: Ask, reply: Reply, judge: str, model_id: str) -> JsonLine:
    """Return a judgment in FastChat's format (its first eight keys) with the raw text; score: null, with the reason."""
    found = verdict(reply.text, reply.finish)
    return {
        "question_id": ask.question_id,
        "model": model_id,
        "judge": [judge, ask.prompt],
        "user_prompt": ask.user,
        "judgment": reply.text,
        "score": found.value,
        "turn": ask.turn,
        "tstamp": time.time(),
        "category": ask.category,
        "benchmark": ask.benchmark,
        "repeat": ask.repeat,
        "judge_model": reply.model,
        "system_fingerprint": reply.fingerprint,
        "finish_reason": reply.finish,
        "why_no_score": found.why_not,
        "parameters": reply.parameters,
    }


def keep_judgments(folder: Path, results: str | Path) -> list[Path]:
    """Copy the answers and judgments behind a run's scores to the folder of its record.

    Returns:
        The files written: `<results>/answers/<run_id>.jsonl.gz` and `<results>/judgments/<run_id>.jsonl.gz`.
    """
    written = []
    for kind in ("answers", "judgments"):
        path = Path(results) / kind / f"{folder.name}.jsonl.gz"
        write_atomically(path, gzip.compress((folder / FOLDER / f"{kind}.jsonl").read_bytes(), mtime=0))
        written.append(path)
    return written
