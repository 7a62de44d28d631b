"""The training loop: plan, use, step. No method is named here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from layerfit.data import FineTuningData, order, probe_indices
from layerfit.data.batches import Batch
from layerfit.engines.base import Engine, set_seed
from layerfit.engines.finite import check_weights
from layerfit.errors import Diverged
from layerfit.methods.base import Context, Plan
from layerfit.run import interrupt
from layerfit.run.history import History
from layerfit.run.loading import Loaded
from layerfit.run.schedule import learning_rate


class Save(Protocol):
    """Writes a checkpoint. stops: whether the run ends there unfinished."""

    def __call__(self, *, stops: bool) -> None:
        """Write it."""


@dataclass
class Clock:
    """Seconds of this process: a resumed run measures only what it did itself."""

    steps: list[float] = field(default_factory=list)
    tokens: int = 0


def micro_batches(data: FineTuningData, rows: list[int], engine: Engine) -> list[Batch]:
    """Return this rank's share of some rows, in the engine's number of micro-batches."""
    mine = rows[engine.rank :: engine.world]
    size = len(mine) // engine.micro_batches
    return [data.batch(mine[i : i + size]) for i in range(0, len(mine), size)]


def describe(plan: Plan) -> list[str]:
    """Return a plan as the record keeps it: its units and parts, `-` before what is frozen inside them."""
    return sorted(plan.units) + sorted(plan.always) + [f"-{u}" for u in sorted(plan.frozen)]


def make_context(loaded: Loaded, engine: Engine, history: History) -> Context:
    """Return the method's context: shapes, seed, and losses on probe batches, whose tokens count as seen."""
    method, data = loaded.run.method, loaded.data
    probes = method.probe_source()

    def probe_batches(number: int) -> list[Batch]:
        assert probes is not None, "a method that probes says where its batches come from (Method.probe_source)"
        source, size = probes
        num_rows, batch = (
            (data.num_rows, data.batch) if source == "train" else (len(data.validation), data.validation_batch)
        )
        rows = probe_indices(number, size, num_rows, method.resolved_seed)
        mine = batch(rows[engine.rank :: engine.world])
        history.tokens += int(engine.all_sum([mine.num_tokens])[0])
        return [mine]

    return Context(
        shape=loaded.anatomy.shape(loaded.num_steps),
        seed=method.resolved_seed,
        probe=lambda scales, number: engine.mean_loss(probe_batches(number), scales),
        response_gradient=lambda scales, number: engine.response_gradient(probe_batches(number), scales),
        state=loaded.state,
    )


def validation_loss(data: FineTuningData, engine: Engine, size: int) -> float:
    """Return nats per target token on the held-out rows. Every rank sees them all: sharded engines stay in step."""
    return engine.mean_loss(data.validation_batches(size), what="validation loss")


@contextmanager
def diverging(when: str, lr: float) -> Iterator[None]:
    """Say of a divergence when it was and what to change: the same words on every engine and rank."""
    try:
        yield
    except Diverged as error:
        raise Diverged(f"{error} {when}; lower optim.lr={lr:g}") from error


def check_trained(loaded: Loaded, engine: Engine) -> None:
    """Check once, before anything is asked of a trained model, what its last update has made; every rank must call.

    Weights that are finite can still overflow on the way to the logits, whose largest is then the first answer: so a
    loss of the trained model is looked at too.

    Raises:
        Diverged: if a weight, or the loss on the run's first rows, is not finite.
    """
    run, data = loaded.run, loaded.data
    with diverging("after the last step", run.optim.lr):
        check_weights(engine)
        rows = order(0, run.training.batch_size, data.num_rows, run.dataset.resolved_seed)
        engine.mean_loss(micro_batches(data, rows, engine)[:1], what="loss")


def train(
    loaded: Loaded,
    engine: Engine,
    history: History,
    save: Save,
    watch: Callable[[int, dict[str, float]], None],
) -> Clock:
    """Train from where `history` ends to the end; `history` grows in place.

    Raises:
        Diverged: if a loss, a gradient norm, or what the method reads off a probe is not finite, at that step.
        Interrupted: after the step and its checkpoint, if this rank or another was asked to stop.
    """
    run, data, num_steps, clock = loaded.run, loaded.data, loaded.num_steps, Clock()
    training, method = run.training, run.method
    ctx = make_context(loaded, engine, history)
    while history.step < num_steps and not history.finished:
        step, start = history.step, time.perf_counter()
        with diverging(f"at step {step}", run.optim.lr):
            plan = method.plan(step, ctx)
            if engine.use(plan):
                history.plans.append((step, describe(plan)))
            set_seed("dropout", run.seed, step, engine.rank)
            rows = order(step, training.batch_size, data.num_rows, run.dataset.resolved_seed)
            rate = learning_rate(run.optim, step, num_steps)
            stats = engine.step(micro_batches(data, rows, engine), rate)
            history.losses.append(stats.loss)
            history.tokens += stats.tokens
            history.finished = method.after_step(step, ctx) or history.step == num_steps
            values = {"loss": stats.loss, "grad_norm": stats.grad_norm, "lr": rate, "tokens": float(history.tokens)}
            if _due(training.eval_every, history) and data.validation:
                values["validation_loss"] = validation_loss(data, engine, training.batch_size)
                history.validation.append((history.step, values["validation_loss"]))
        clock.steps.append(time.perf_counter() - start)
        clock.tokens += stats.tokens
        watch(history.step, values)
        stop = not history.finished and engine.any(interrupt.asked() is not None)
        if history.finished or stop or _due(training.checkpoint_every, history):
            save(stops=stop)
        if stop:
            raise interrupt.Interrupted(interrupt.asked() or "SIGTERM")  # a signal to another rank: a scheduler's
    return clock


def _due(every: int, history: History) -> bool:
    return every > 0 and (history.step % every == 0 or history.finished)
