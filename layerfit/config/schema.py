"""The schema of a run: plain data classes that check their own values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TypeVar

from omegaconf import MISSING

from layerfit.anatomy import Anatomy, Shape
from layerfit.config.judge import LABEL, JudgeConfig
from layerfit.config.model import ModelConfig
from layerfit.errors import MOST_RANKS, MOST_SEQUENCES, UserError, check_one_of, check_range
from layerfit.files.paths import PATH
from layerfit.methods import name_of
from layerfit.methods.base import Method

_TASK = re.compile(r"(?!.*\.\.)[\w(][\w.\-+()]*")
"""The names that lm-eval's tasks and ours have."""
_MOST_EPOCHS = 1e6


@dataclass
class DatasetConfig:
    """Fine-tuning data: its rows, their conversion to prompt and response, and the validation rows."""

    name: str = MISSING
    id: str = MISSING
    path: str | None = field(default=None, metadata={"identity": "data", **PATH})
    """A local file (.jsonl, .json, .csv, .parquet) or folder, instead of the hub; relative to the working
    directory."""
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    num_rows: int | None = None
    """Rows of the published data; a copy with another number is recorded as incomplete."""
    fingerprint: str | None = None
    """Hash of the rows; null = not pinned, only `num_rows` is checked."""
    form: str = MISSING
    """Format of a row: prompt | alpaca | messages | text (rows are documents) | lines (rows are lines of one text).
    auto: by the columns of the first row."""
    template: str = MISSING
    """Format of a prompt: plain | alpaca | llm_adapters | chat (the model's own). auto: plain for prompt, text and
    lines, else alpaca."""
    num_validation: int = 0
    """Rows held out for the validation loss, the last of a seeded shuffle; ignored if `validation_split` is set."""
    validation_split: str | None = None
    max_length: int = field(default=512, metadata=LABEL)
    """Default of `training.max_length`: tokens of an example."""
    seed: int | None = None
    """Seed of the row order and the held-out rows; null = the run's seed."""

    def __post_init__(self) -> None:
        if self.form != MISSING:
            check_one_of("dataset.form", self.form, ("auto", "prompt", "alpaca", "messages", "text", "lines"))
        if self.template != MISSING:
            check_one_of("dataset.template", self.template, ("auto", "plain", "alpaca", "llm_adapters", "chat"))
        check_range("dataset.num_validation", self.num_validation, 0)
        check_range("dataset.max_length", self.max_length, 2, MOST_SEQUENCES)
        if self.num_rows is not None:
            check_range("dataset.num_rows", self.num_rows, 1)
            if self.path is None and self.num_validation >= self.num_rows:
                raise UserError(
                    f"dataset.num_validation={self.num_validation:,} holds out all of the {self.num_rows:,} rows of "
                    f"dataset={self.name}; leave some to train on"
                )
        if self.id == "local" and self.path is None:
            raise UserError(
                f"dataset={self.name} needs dataset.path=..., a file (.jsonl, .json, .csv, .parquet) or a folder "
                "of them"
            )
        if self.form == "lines" and self.num_validation:
            raise UserError("dataset.form=lines is one text: hold out with dataset.validation_split, num_validation=0")

    @property
    def resolved_seed(self) -> int:
        """The seed, after `RunConfig` has filled it in."""
        assert self.seed is not None, "this data set belongs to no run: its seed is not resolved"
        return self.seed


@dataclass
class TaskConfig:
    """One task or group of tasks, with its number of shots."""

    name: str = MISSING
    num_fewshot: int = 0
    dataset: str | None = None
    """Hub id of its data, to check that it is available before a run starts."""
    datasets: list[str] = field(default_factory=list, metadata=LABEL)
    """Hub ids of a group's data, for the same check."""
    protocol: str = field(default="lm_eval", metadata={"since": "0.2"})
    """lm_eval (log-likelihood) | generative | perplexity (layerfit/evaluation/protocols.py)."""

    def __post_init__(self) -> None:
        check_range("num_fewshot of a task", self.num_fewshot, 0, 1000)
        if self.name != MISSING and not _TASK.fullmatch(self.name):
            raise UserError(f"eval.tasks names {self.name!r}, which no task is called; give a name such as arc_easy")

    def hub_ids(self) -> list[str]:
        """Return the hub ids of its data, as far as they are given."""
        return [*([] if self.dataset is None else [self.dataset]), *self.datasets]


@dataclass
class EvalConfig:
    """The evaluation of a trained model."""

    name: str = MISSING
    tasks: list[TaskConfig] = field(default_factory=list)
    include: str | None = None
    """Folder of task files: relative to the package, else to the working directory, or in a folder of --conf."""
    limit: int | None = None
    """Items per task; a run with a limit is marked, and tables take it only with --draft."""
    batch_size: int = field(default=64, metadata=LABEL)
    judge: JudgeConfig = field(default_factory=JudgeConfig, metadata={"since": "judged benchmarks"})
    model_class: str = field(default="shared", metadata=LABEL)
    """shared: common prefixes of requests are computed once. stock: lm-eval's own class. The scores are the same."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_range("eval.limit", self.limit, 1)
        check_range("eval.batch_size", self.batch_size, 1, MOST_SEQUENCES)
        if not self.judge.benchmarks and self.judge != JudgeConfig():
            raise UserError(f"eval={self.name} has no judge; use eval.judge.* with eval=mt_bench or vicuna_bench")
        check_one_of("eval.model_class", self.model_class, ("shared", "stock"))


@dataclass
class EngineConfig:
    """The engine that executes a method's plan: plain torch or DeepSpeed."""

    name: str = MISSING
    stage: int | None = None
    """DeepSpeed's ZeRO stage; null = plain torch, the reference."""
    offload: bool = False
    ranks: int = field(default=1, metadata=LABEL)
    device: str = field(default="auto", metadata=LABEL)

    def __post_init__(self) -> None:
        check_one_of("engine.device", self.device, ("auto", "cpu", "cuda"))
        check_range("engine.ranks", self.ranks, 1, MOST_RANKS)


@dataclass
class OptimConfig:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) and its schedule."""

    name: str = "adamw"
    lr: float = MISSING
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    """Maximum gradient norm; 0 = no clipping."""
    warmup_ratio: float = 0.0
    schedule: str = "cosine"
    precision: str = "mixed"
    """mixed: fp32 masters and moments of active weights. pure_bf16: no fp32 copies (the LISA paper's byte count)."""

    def __post_init__(self) -> None:
        check_one_of("optim.name", self.name, ("adamw",))
        check_one_of("optim.schedule", self.schedule, ("constant", "linear", "cosine"))
        check_one_of("optim.precision", self.precision, ("mixed", "pure_bf16"))
        check_range("optim.lr", self.lr, 0, low_open=True)
        check_range("optim.weight_decay", self.weight_decay, 0)
        check_range("optim.clip", self.clip, 0)
        check_range("optim.warmup_ratio", self.warmup_ratio, 0, 1)
        for name in ("beta1", "beta2"):
            check_range(f"optim.{name}", getattr(self, name), 0, 1, high_open=True)
        check_range("optim.eps", self.eps, 0, low_open=True)


@dataclass
class TrainingConfig:
    """Length of training, batch size, and the tokens of the loss."""

    max_steps: int | None = None
    epochs: float | None = None
    batch_size: int = MISSING
    """Sequences per optimizer step, over all ranks."""
    micro_batch_size: int | None = field(default=None, metadata=LABEL)
    """Sequences per forward pass and rank; null = all of a rank's share of the batch."""
    max_length: int = MISSING
    packing: bool = False
    loss_on_prompt: bool = False
    activation_checkpointing: bool = field(default=False, metadata=LABEL)
    dtype: str = "bf16"
    checkpoint_every: int = field(default=0, metadata=LABEL)
    """Steps between checkpoints; 0 = at the end only."""
    eval_every: int = field(default=0, metadata=LABEL)
    """Steps between validation losses; 0 = never."""
    norms: bool = field(default=False, metadata={"since": "weight norms"})
    """Record the norms of weights, adapters and updates, by block (layerfit/run/norms.py)."""
    time_phases: bool = field(default=False, metadata=LABEL)
    """Time forward, backward and update separately; a GPU is synchronised between them."""

    def __post_init__(self) -> None:
        check_one_of("training.dtype", self.dtype, ("fp32", "bf16"))
        if (self.max_steps is None) == (self.epochs is None):
            raise UserError("set exactly one of training.max_steps and training.epochs; the other is null")
        if self.max_steps is not None:
            check_range("training.max_steps", self.max_steps, 1)
        if self.epochs is not None:
            check_range("training.epochs", self.epochs, 0, _MOST_EPOCHS, low_open=True)
        check_range("training.batch_size", self.batch_size, 1, MOST_SEQUENCES)
        check_range("training.max_length", self.max_length, 2, MOST_SEQUENCES)
        check_range("training.checkpoint_every", self.checkpoint_every, 0)
        check_range("training.eval_every", self.eval_every, 0)
        if self.micro_batch_size is not None:
            check_range("training.micro_batch_size", self.micro_batch_size, 1)


@dataclass
class TrackerConfig:
    """The experiment tracker. A JSON-lines file is always written."""

    name: str = "jsonl"
    project: str = "layerfit"
    entity: str | None = None
    mode: str = "offline"
    group: str | None = None

    def __post_init__(self) -> None:
        check_one_of("tracker.name", self.name, ("jsonl", "wandb"))
        check_one_of("tracker.mode", self.mode, ("offline", "online"))


@dataclass
class HubConfig:
    """The sources of models and data that are tried before the network."""

    mirror: str | None = field(default=None, metadata=PATH)
    offline: bool = False


@dataclass
class PathsConfig:
    """Output folders, relative to the working directory."""

    outputs: str = field(default="outputs", metadata=PATH)
    results: str = field(default="results", metadata=PATH)


@dataclass
class SaveConfig:
    """Whether a trained model's weights are saved, in `outputs/<run_id>/`."""

    weights: str = "none"

    def __post_init__(self) -> None:
        check_one_of("save.weights", self.weights, ("none", "final"))


_Seeded = TypeVar("_Seeded", Method, DatasetConfig)


def _seeded(part: _Seeded, seed: int) -> _Seeded:
    """Return a part of a run that has a seed, or a copy with the run's seed."""
    return part if part.seed is not None else replace(part, seed=seed)


@dataclass
class RunConfig:
    """One run: everything that determines its result, and where it is executed."""

    model: ModelConfig = MISSING
    method: Method = MISSING
    dataset: DatasetConfig = MISSING
    eval: EvalConfig = MISSING
    engine: EngineConfig = MISSING
    optim: OptimConfig = MISSING
    training: TrainingConfig = MISSING
    tracker: TrackerConfig = field(default_factory=TrackerConfig, metadata=LABEL)
    hub: HubConfig = field(default_factory=HubConfig, metadata=LABEL)
    paths: PathsConfig = field(default_factory=PathsConfig, metadata=LABEL)
    save: SaveConfig = field(default_factory=SaveConfig, metadata=LABEL)
    seed: int = 0
    label: str = field(default="", metadata=LABEL)
    ranking_data: dict[str, DatasetConfig] = field(
        default_factory=dict, metadata={"identity": "runs", "since": "rankings from other data"}
    )
    """Data on which a method's rankings are made: `+dataset@ranking_data.NAME=CHOICE` (any NAME); empty = its own."""

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0)
        if not self.method.trains:  # nothing is random without training: one run for all seeds
            self.seed = 0
            self.method, self.dataset = replace(self.method, seed=0), replace(self.dataset, seed=0)
        self.method, self.dataset = _seeded(self.method, self.seed), _seeded(self.dataset, self.seed)
        own = self.dataset.resolved_seed
        self.ranking_data = {name: _seeded(data, own) for name, data in self.ranking_data.items()}
        source = self.method.rankings()
        ranked = source is not None and source.run is not None  # if not, `checks.check_required` refuses it
        if ranked and list(self.ranking_data.values()) == [self.dataset]:  # the default, given explicitly: same id
            self.ranking_data = {}

    def method_name(self) -> str:
        """Return the method's name on the command line."""
        return name_of(self.method)

    def shape(self, anatomy: Anatomy) -> Shape:
        """Return the shape for the method's checks; with one step if epochs are set (their length is not known yet)."""
        return anatomy.shape(self.training.max_steps or 1)
