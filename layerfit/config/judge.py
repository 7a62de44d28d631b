"""The schema of judged benchmarks, a part of `EvalConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field

from layerfit.errors import check_one_of, check_range
from layerfit.files.paths import PATH

LABEL = {"identity": False}
"""Metadata of fields that do not change a run's result (where or how it runs): left out of its id."""

_MOST = {
    "max_new_tokens": 2**20,
    "judgments": 1000,
    "max_judgment_tokens": 2**20,
    "max_attempts": 1000,
    "parallel": 1024,
}
_LONGEST_WAIT_S = 1e6


@dataclass
class JudgeConfig:
    """Benchmarks whose answers a judge rates (arXiv:2306.05685): questions, decoding of the answers, and the judge."""

    benchmarks: dict[str, str | None] = field(default_factory=dict)
    """mt_bench, vicuna_bench: each a folder of `data`, with the hash of its questions, references and prompts, checked
    on load; null = any, and no table takes the scores. Empty: nothing is judged."""
    data: str | None = field(default=None, metadata={**LABEL, **PATH})
    """A folder in FastChat's layout: judge_prompts.jsonl and <benchmark>/question.jsonl; null = the mirror's
    `datasets/lm-sys/FastChat`. Its hashes enter a run's id, not its path."""
    template: str = "chat"
    """chat (the model's own) | alpaca | vicuna | plain: the prompt format of a question."""
    decoding: str = "fastchat"
    """fastchat: its temperature for each category, fixed seeds | greedy."""
    max_new_tokens: int = 1024
    """Tokens of an answer, at most; FastChat's default."""
    model: str | None = None
    """The judge's model id at the server `base_url`."""
    base_url: str | None = field(default=None, metadata=LABEL)
    """Address of an OpenAI-compatible server, including `/v1`."""
    model_path: str | None = field(default=None, metadata={"identity": "judge", **PATH})
    """A judge run with transformers, instead of `base_url`: a folder, or a hub id."""
    revision: str | None = None
    """Of a hub id in `model_path`."""
    dtype: str = "bf16"
    """Of a judge at `model_path`."""
    judgments: int = 1
    """Judgments per turn; their median is the turn's rating."""
    max_judgment_tokens: int = 2048
    key_variable: str | None = field(default="OPENAI_API_KEY", metadata=LABEL)
    """Environment variable that holds the API key; null = the server needs none."""
    timeout_s: float = field(default=120.0, metadata=LABEL)
    """Time limit of one whole request."""
    max_attempts: int = field(default=8, metadata=LABEL)
    """Requests for one judgment before the run fails."""
    parallel: int = field(default=4, metadata=LABEL)
    """Concurrent requests."""

    def __post_init__(self) -> None:
        for name in self.benchmarks:
            check_one_of("eval.judge.benchmarks", name, ("mt_bench", "vicuna_bench"))
        check_one_of("eval.judge.template", self.template, ("chat", "alpaca", "vicuna", "plain"))
        check_one_of("eval.judge.decoding", self.decoding, ("fastchat", "greedy"))
        check_one_of("eval.judge.dtype", self.dtype, ("fp32", "bf16"))
        for name, most in _MOST.items():
            check_range(f"eval.judge.{name}", getattr(self, name), 1, most)
        check_range("eval.judge.timeout_s", self.timeout_s, 0, _LONGEST_WAIT_S, low_open=True)
