"""A tiny run with a fault in its third step. Run under torchrun: `poisoned.py FOLDER KIND ENGINE...`, poison on rank 1.

Rank r writes one line an engine to FOLDER/r: the step that was refused, what was said, weights that the step moved.
"""

import json
import math
import sys
from pathlib import Path

import torch

from layerfit.engines import torch as torch_engine
from layerfit.engines import zero
from layerfit.errors import Diverged
from tests.helpers.tiny import composed, context_for, engine_for, rows, share

GRADIENT, LOSS = "gradient norm", "loss"
LAST = 3


def poisoned(words: tuple[str, ...], kind: str, value: float, rank: int = 0) -> tuple[int | None, str, list[str]]:
    """The step that is refused (None: no step is), the words, and the weights that it has moved all the same."""
    run = composed(*words)
    engine = engine_for(run)
    ctx, stepping = context_for(run, engine, LAST), {"now": 0}
    loss_sum = torch_engine.loss_sum

    def spoiled(model, batch):
        loss = loss_sum(model, batch)
        if stepping["now"] < LAST - 1 or engine.rank != rank:
            return loss
        if kind == LOSS:
            return loss * value
        loss.register_hook(lambda gradient: gradient * value)  # the loss stays what it is
        return loss

    modules = (torch_engine, zero)
    for module in modules:
        module.loss_sum = spoiled
    try:
        for step in range(LAST):
            stepping["now"] = step
            engine.use(run.method.plan(step, ctx))
            before = {name: engine.read_weight(name) for name in engine.parameters}
            try:
                engine.step(share(rows(step), engine.rank, engine.world, engine.micro_batches), 0.003)
            except Diverged as error:
                after = {name: engine.read_weight(name) for name in engine.parameters}
                return step, str(error), [n for n in before if not torch.equal(before[n], after[n])]
        return None, "no step was refused", []
    finally:
        for module in modules:
            module.loss_sum = loss_sum
        engine.close()


def main(folder: str, kind: str, engines: list[str]) -> None:
    for name in engines:
        from torch import distributed

        found = poisoned(("method=full", f"engine={name}"), kind, math.inf, rank=1)
        with (Path(folder) / str(distributed.get_rank())).open("a") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
