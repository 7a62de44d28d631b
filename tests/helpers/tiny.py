"""A tiny random Llama and batches for it; nothing is downloaded."""

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.data.batches import Batch
from layerfit.distributed import process
from layerfit.engines import make_engine
from layerfit.engines.base import Engine, set_seed
from layerfit.methods import METHODS
from layerfit.methods.base import Context

LAYERS, VOCAB, LENGTH, ROWS = 4, 50, 12, 4

_SMALLER = {
    "lora": ["method.rank=2"],
    "dora": ["method.rank=2"],
    "adalora": ["method.rank=3", "method.init_rank=4", "method.warmup=2", "method.final=0.25"],
    "series": ["method.size=3"],
    "parallel": ["method.size=3"],
    "galore": ["method.rank=4", "method.refresh_every=5"],
    "lisa": ["method.num_active=1", "method.switch_every=2"],
    "ila": ["method.rank=2"],
    "ila_ranking": ["method.rank=2", "method.mask_steps=2", "method.mask_batch_size=4"],
    "static": ["method.units=[layers.1,layers.3]", "method.always=[norm]"],
    "lift": ["method.switch_every=2"],
    "random_mask": ["method.share=0.1"],
    "greedy_ranking": ["method.rank=2", "method.probe_batch_size=4", "method.removal_batches=2"],
    "ist": ["method.rank=2", "method.update_every=4", "method.probe_batch_size=4", "method.mu=50"],
}
"""Settings that suit the tiny model where a method's defaults do not."""
SETTINGS = {name: _SMALLER.get(name, []) for name, cls in METHODS.items() if cls.trains}
"""Settings of every method that trains."""


TINY = (f"model.num_layers={LAYERS}", "engine.device=cpu", "optim.lr=0.01", "optim.weight_decay=0.1")


def tiny_llama(dtype: torch.dtype = torch.float32, layers: int = LAYERS) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(shape).to(dtype)


def composed(*overrides: str) -> RunConfig:
    with config.composer():
        return config.compose([*TINY, *overrides])


def rows(step: int) -> Batch:
    """All rows of a step: targets are uneven, so a mean of means would show."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=generator)
    labels = ids.clone()
    labels[:, :4] = -100
    labels[0, 4:9] = -100
    return batch_of(ids, labels)


def batch_of(ids: torch.Tensor, labels: torch.Tensor) -> Batch:
    return Batch(ids, labels, None, torch.arange(ids.shape[1]).expand_as(ids), torch.ones_like(ids, dtype=torch.bool))


def share(batch: Batch, rank: int, world: int, micro_batches: int) -> list[Batch]:
    """One rank's micro-batches of a step."""
    ids, labels = batch.input_ids[rank::world], batch.labels[rank::world]
    size = len(ids) // micro_batches
    return [batch_of(ids[i : i + size], labels[i : i + size]) for i in range(0, len(ids), size)]


def state_for(run: RunConfig, steps: int = 1) -> Any:
    """The state that a run begins with; a ranking that it goes by gives unit i the score 5 i mod 7."""
    shape, rankings = run.model.anatomy().shape(steps), run.method.rankings()
    units = [] if rankings is None else rankings.units(shape)
    return run.method.begin(shape, [{"scores": {u: float(i * 5 % 7) for i, u in enumerate(units)}}])


def adapted(run: RunConfig, model: torch.nn.Module) -> torch.nn.Module:
    """The run's method put into a model."""
    set_seed("adapt", run.method.resolved_seed)
    return run.method.adapt(model, run.model.anatomy(), state_for(run))


def engine_over(run: RunConfig, model: torch.nn.Module, micro_batches: int = 2, steps: int = 20) -> Engine:
    """The run's engine over an adapted model."""
    return make_engine(model, run.model.anatomy(), run, num_steps=steps, micro_batches=micro_batches)


def engine_for(run: RunConfig, micro_batches: int = 2, steps: int = 20) -> Engine:
    """The run's method on the tiny model, on its engine and device. Adapters are drawn on the CPU: the same on each."""
    device = process.device_for(run.engine.device)
    process.start(device, run.engine.stage)
    model = tiny_llama(torch.float32 if run.training.dtype == "fp32" else torch.bfloat16)
    return engine_over(run, adapted(run, model).to(device), micro_batches, steps)


def found_by(run: RunConfig, engine: Engine, ctx: Context) -> dict[str, Any]:
    """The findings of a run so far."""
    return run.method.findings(engine.module, engine.anatomy, ctx.state)


def context_for(run: RunConfig, engine: Engine, steps: int) -> Context:
    def probe(number: int) -> list[Batch]:
        return share(rows(1000 + number), engine.rank, engine.world, 1)

    return Context(
        run.model.anatomy().shape(steps),
        run.method.resolved_seed,
        lambda scales, number: engine.mean_loss(probe(number), scales),
        lambda scales, number: engine.response_gradient(probe(number), scales),
        state_for(run, steps),
    )
