"""Cost of a change of plan on each engine: time of a switch over time of a step, on the embedded model."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.files.writing import write_atomically
from layerfit.launch.processes import set_environment
from layerfit.records.manifest import manifest
from layerfit.run.loop import micro_batches

ENGINES = ("torch", "zero0", "zero1", "zero2", "zero3")
STEPS = 24


@dataclass(frozen=True)
class Switching:
    """Medians: a step of the whole model, a step that follows a switch, and the switch itself."""

    engine: str
    full_step_seconds: float
    switching_step_seconds: float
    switch_seconds: float


def overrides(engine: str, *, switching: bool) -> list[str]:
    """Return the overrides of a run that never switches, or of one that draws another block before every step."""
    one_block = ["method=lisa", "method.num_active=1", "method.switch_every=1"]
    return [
        f"engine={engine}",
        "eval=none",
        f"training.max_steps={STEPS}",
        *(one_block if switching else ["method=full"]),
    ]


def measure(run: RunConfig) -> tuple[float, float]:
    """Return the median seconds of a step, switch excluded, and of a switch (0 if there was none)."""
    from layerfit.data import order
    from layerfit.distributed import process
    from layerfit.engines import make_engine
    from layerfit.run.history import History
    from layerfit.run.loading import load
    from layerfit.run.loop import make_context

    process.start(process.device_for("auto"), run.engine.stage)
    loaded = load(run)
    engine = make_engine(loaded.model, loaded.anatomy, run, num_steps=STEPS, micro_batches=1)
    ctx = make_context(loaded, engine, History())
    seconds = []
    for step in range(STEPS):
        engine.use(run.method.plan(step, ctx))
        rows = order(step, run.training.batch_size, loaded.data.num_rows, 0)
        start = time.perf_counter()
        engine.step(micro_batches(loaded.data, rows, engine), run.optim.lr)
        seconds.append(time.perf_counter() - start)
    switches = list(engine.switch_seconds)
    engine.close()
    return statistics.median(seconds[2:]), statistics.median(switches) if switches else 0.0


def main() -> list[Switching]:
    """Measure every engine, print the table and write it with its manifest to `results/bench/`."""
    set_environment()
    import torch

    from layerfit.distributed.process import describe_device

    torch.set_num_threads(1)
    out = []
    print(f"{'engine':<8}{'full step':>12}{'step':>10}{'switch':>10}{'switch / full step':>21}")
    for engine in ENGINES:
        with config.composer():
            runs = [config.compose(overrides(engine, switching=s)) for s in (False, True)]
        (full, _), (step, switch) = (measure(run) for run in runs)
        out.append(Switching(engine, full, step, switch))
        print(f"{engine:<8}{1e3 * full:>9.0f} ms{1e3 * step:>7.0f} ms{1e3 * switch:>7.0f} ms{switch / full:>21.2f}")
    found = {"rows": [dataclasses.asdict(row) for row in out], "manifest": manifest(describe_device("auto"), {})}
    write_atomically(Path("results/bench/switching.json"), (json.dumps(found, indent=1) + "\n").encode())
    return out


if __name__ == "__main__":
    main()
