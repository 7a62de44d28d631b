"""A model's answers to a benchmark, turn by turn, in its chat template or a named one; in FastChat's answer format."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from layerfit.config.judge import JudgeConfig
from layerfit.data.templates import Exchange, write_turn
from layerfit.data.tokenise import tokenise
from layerfit.data.turns import Turn
from layerfit.errors import UserError
from layerfit.evaluation.judge.files import Bench, Journal, JsonLine, Question, answer_fault
from layerfit.evaluation.judge.generate import Continuation, Prompt, generate, weights_digest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1} | dict.fromkeys(
    ("extraction", "math", "coding", "reasoning"), 0.0
)
OTHER_TEMPERATURE = 0.7
"""FastChat's (fastchat/llm_judge/common.py, temperature_config; gen_model_answer.py for other categories)."""
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""System text of FastChat's conversation template vicuna_v1.1."""
CUTS = {"alpaca": "### Instruction:"}
"""Stop text, by template: models may continue with the next request by themselves. (FastChat stops Alpaca's at `###`,
which also cuts at Markdown headings.)"""
NO_TEMPLATE = (
    "the model has no chat template and eval.judge.template=chat; name the one it was trained with: "
    "eval.judge.template=alpaca, vicuna or plain"
)


def exchange(template: str, number: int, request: str, answer: str = "") -> Exchange:
    """Return one request (0 = the first) and its answer in a named template, as in training."""
    if template != "vicuna":
        return write_turn(Turn(request, answer), template, number)
    opening = "" if number else f"{VICUNA} "
    return Exchange(f"{opening}USER: {request} ASSISTANT:", f" {answer}" if answer else "")


def prompt_ids(template: str, tokenizer: PreTrainedTokenizerBase, requests: list[str], answers: list[str]) -> list[int]:
    """Return the tokens of a conversation that ends with an unanswered request (after `check_template`).

    A named template is tokenised as in training: each exchange separately, closed by the end-of-text token, with one
    bos token at the start.
    """
    if template == "chat":
        return _chat_ids(tokenizer, requests, answers)
    written = [
        exchange(template, number, *said) for number, said in enumerate(zip(requests, [*answers, ""], strict=True))
    ]
    waiting = written.pop()
    if all(answer.strip() for answer in answers):
        examples, _ = tokenise([written], tokenizer, sys.maxsize, loss_on_prompt=False) if written else ([], {})
        ids = [token for example in examples for token in example.ids.tolist()]
    else:  # training drops exchanges with empty answers, but here they are part of the conversation
        ids = []
        for number, done in enumerate(written):
            ids += [*_text_ids(tokenizer, done.prompt + done.response, special=number == 0), tokenizer.eos_token_id]
    return ids + _text_ids(tokenizer, waiting.prompt, special=not written)


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    """Return a text's tokens without a closing eos token."""
    ids = list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def check_template(config: JudgeConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if `eval.judge.template=chat` and the tokenizer has no chat template."""
    if config.template == "chat" and tokenizer.chat_template is None:
        raise UserError(NO_TEMPLATE)


def _chat_ids(tokenizer: PreTrainedTokenizerBase, requests: list[str], answers: list[str]) -> list[int]:
    messages = []
    for request, answer in zip(requests, [*answers, None], strict=True):
        messages.append({"role": "user", "content": request})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str), "one conversation gives one text"
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def temperature(config: JudgeConfig, category: str) -> float:
    """Return the sampling temperature of a category."""
    return TEMPERATURES.get(category, OTHER_TEMPERATURE) if config.decoding == "fastchat" else 0.0


def answer_all(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: JudgeConfig,
    bench: Bench,
    path: Path,
    batch_size: int,
) -> list[JsonLine]:
    """Return an answer to every question, in order, reusing those in `path` made with the same weights and settings.

    A batch of questions is written after its last turn, so a kill loses at most one batch.
    """
    journal, weights = Journal(path, answer_fault), weights_digest(model)
    settings: JsonLine = {"weights": weights, "template": config.template, "decoding": config.decoding}
    settings |= {"max_new_tokens": config.max_new_tokens, "bench": bench.fingerprint}
    known = {line["question_id"]: line for line in journal.lines if line.get("settings") == settings}
    missing = [question for question in bench.questions if question.id not in known]
    missing.sort(key=lambda question: len(question.turns[0]))
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        for question, turns in zip(batch, _converse(model, tokenizer, config, batch), strict=True):
            line = _line(question, turns, path.stem, settings)
            journal.append(line)
            known[question.id] = line
    return [known[question.id] for question in bench.questions]


def _converse(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, config: JudgeConfig, batch: list[Question]
) -> list[list[Continuation]]:
    """Return the answers of every question of a batch, turn after turn."""
    said: list[list[Continuation]] = [[] for _ in batch]
    for turn in range(max(len(question.turns) for question in batch)):
        waiting = [i for i, question in enumerate(batch) if turn < len(question.turns)]
        prompts = []
        for i in waiting:
            question, answers = batch[i], [c.text for c in said[i]]
            ids = prompt_ids(config.template, tokenizer, list(question.turns[: turn + 1]), answers)
            seed = f"{question.id}/{turn}"
            prompts.append(Prompt(ids, temperature(config, question.category), seed))
        found = generate(model, tokenizer, prompts, config.max_new_tokens, len(batch))
        for i, continuation in zip(waiting, found, strict=True):
            text, finish = continuation.text, continuation.finish
            if (cut := CUTS.get(config.template)) is not None and cut in text:
                text, finish = text.split(cut)[0].strip(), "stop"
            said[i].append(Continuation(text, finish))
    return said


def _line(question: Question, turns: list[Continuation], model_id: str, settings: JsonLine) -> JsonLine:
    """Return an answer in FastChat's format; it ignores our additional keys `finish` and `settings`."""
    texts = [turn.text for turn in turns]
    answer_id = hashlib.blake2s("\0".join([str(question.id), *texts]).encode(), digest_size=11).hexdigest()
    choice = {"index": 0, "turns": texts, "finish": [turn.finish for turn in turns]}
    line = {"question_id": question.id, "answer_id": answer_id, "model_id": model_id, "choices": [choice]}
    return line | {"tstamp": time.time(), "settings": settings}
