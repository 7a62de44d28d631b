"""A judge run with transformers on the device of the run: greedy, in its own chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import HubConfig, ModelConfig
from layerfit.errors import UserError
from layerfit.evaluation.judge.client import Messages, Reply
from layerfit.evaluation.judge.generate import Prompt, generate, weights_digest
from layerfit.models.hub import load_tokenizer, model_source, pretrained

if TYPE_CHECKING:
    import torch


def judge_model(config: JudgeConfig) -> ModelConfig:
    """Return a local judge as a ModelConfig, for `hub`: `eval.judge.model_path` is a folder or a hub id."""
    assert config.model_path is not None, "called for local judges only"
    path = config.model_path if Path(config.model_path).is_dir() else None
    return ModelConfig(name="eval.judge", id=config.model_path, path=path, revision=config.revision)


@dataclass
class LocalJudge:
    """A judge in this process. Its name contains a hash of its weights, so a path with new weights is a new judge."""

    config: JudgeConfig
    hub: HubConfig
    device: torch.device | str
    batch_size: int
    model: Any = field(init=False)
    tokenizer: Any = field(init=False)

    def __post_init__(self) -> None:
        import torch

        where = judge_model(self.config)
        source = model_source(where, self.hub)
        self.tokenizer = load_tokenizer(where, self.hub)
        if self.tokenizer.chat_template is None:
            raise UserError(f"eval.judge.model_path={self.config.model_path} has no chat template; give a chat model")
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[self.config.dtype]
        self.model = pretrained(where, source, dtype=dtype).to(self.device).eval()

    def name(self) -> str:
        """Return the judge's name in files and versions: `local-<name>-<hash of its weights>-<dtype>`."""
        path = Path(self.config.model_path or "")
        shown = self.config.model or (path.name if path.is_dir() else self.config.model_path)
        return f"local-{shown}-{weights_digest(self.model)}-{self.config.dtype}"

    def answer(self, conversations: list[Messages], keep: Callable[[int, Reply], None]) -> None:
        """Judge every conversation, a batch at a time; `keep` gets each reply with its index."""
        for start in range(0, len(conversations), self.batch_size):
            batch = conversations[start : start + self.batch_size]
            prompts = [Prompt(self._ids(messages)) for messages in batch]
            limit = self.config.max_judgment_tokens
            for number, found in enumerate(generate(self.model, self.tokenizer, prompts, limit, self.batch_size)):
                keep(start + number, Reply(found.text, finish=found.finish))

    def _ids(self, messages: Messages) -> list[int]:
        """Return a conversation's tokens; if the template has no system role, that text goes before the request."""
        from jinja2 import TemplateError

        try:
            text = self._write(messages)
        except TemplateError:
            merged = "\n\n".join(message["content"].strip() for message in messages)
            text = self._write([{"role": "user", "content": merged}])
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _write(self, messages: Messages) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
