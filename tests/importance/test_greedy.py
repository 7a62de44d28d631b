"""Greedy removal against all permutations, and the losses of a real model without its adapters."""

import itertools
import random

import pytest
import torch

from layerfit.importance.greedy import remove_greedily
from tests.helpers.tiny import SETTINGS, composed, context_for, engine_for, found_by, rows, share, tiny_llama


@pytest.mark.parametrize("seed", range(5))
def test_order_is_the_best_of_all_permutations(seed):
    """Lowest loss after one removal, among those after two, ...: the least of all loss sequences, read as words."""
    units = [f"layers.{i}" for i in range(5)]
    rng = random.Random(seed)
    table = {frozenset(s): rng.random() for n in range(6) for s in itertools.combinations(units, n)}
    asked = []

    def loss(removed):
        asked.append(removed)
        return table[removed]

    order, losses = remove_greedily(units, loss)
    words = {p: [table[frozenset(p[:n])] for n in range(6)] for p in itertools.permutations(units)}
    assert tuple(order) == min(words, key=words.__getitem__)
    assert losses == words[tuple(order)]
    assert len(asked) == len(set(asked)) == 5 * 6 // 2 + 1


def test_an_additive_loss_is_sorted():
    harm = {"a": 0.25, "b": -0.5, "c": 0.0, "d": 0.0}
    order, losses = remove_greedily(list(harm), lambda removed: 2 + sum(harm[u] for u in removed))
    assert (order, losses) == (["b", "c", "d", "a"], [2, 1.5, 1.5, 1.5, 1.75])


def test_the_last_loss_is_that_of_the_frozen_model():
    """And every other one that of a model whose removed blocks have B = 0; the record's ranking is the order."""
    run = composed("method=greedy_ranking", "engine=torch", *SETTINGS["greedy_ranking"])
    engine = engine_for(run)
    ctx = context_for(run, engine, 6)
    for step in range(6):
        engine.use(run.method.plan(step, ctx))
        engine.step(share(rows(1000 + step % 2), 0, 1, 2), 0.05)
        assert run.method.after_step(step, ctx) == (step == 5)
        assert bool(ctx.state.order) == (step == 5)
    found = found_by(run, engine, ctx)
    order, losses = found["removal"]["order"], found["removal"]["losses"]
    assert found["ranking"]["scores"] == {unit: order.index(unit) + 1 for unit in [f"layers.{i}" for i in range(4)]}

    def mean_loss(model):
        def one(batch):
            return float(model(input_ids=batch.input_ids, labels=batch.labels).loss)

        with torch.no_grad():
            return sum(one(rows(1000 + number)) for number in range(2)) / 2

    model = engine.module.eval()
    for expected, unit in zip(losses, [None, *order], strict=True):
        for name, parameter in model.named_parameters():
            if unit is not None and f".{unit}." in name and "lora_B" in name:
                parameter.data.zero_()
        assert mean_loss(model) == pytest.approx(expected, abs=1e-5)
    assert losses[-1] == pytest.approx(mean_loss(tiny_llama().eval()), abs=1e-5)
    assert losses[0] < losses[-1] - 0.01
    assert len({round(loss, 4) for loss in losses}) == 5
