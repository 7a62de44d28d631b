"""IST's equations by hand, and its draws against their law."""

import math
import random
from dataclasses import replace

import pytest

from layerfit.methods.ist import draw_weighted, log_sigmoid, rewards, sigmoid, updated
from layerfit.run import checkpoint
from tests.helpers.tiny import SETTINGS, composed, context_for, engine_for, found_by


def test_ist_by_hand():
    """Two candidates over three layers, losses ln 2 and ln 4: exp(-L) = 1/2 and 1/4, mean 3/8, r = +1/8 and -1/8."""
    losses = [math.log(2), math.log(4)]
    assert rewards(losses) == pytest.approx([1 / 8, -1 / 8])
    suppressed = [frozenset({0}), frozenset({1})]
    # Paper: layer 0 was kept by the second (-1/8), 1 by the first (+1/8), 2 by both (0).
    assert updated([0.0] * 3, suppressed, losses, mu=2.5, rule="paper") == pytest.approx([-2.5 / 8, 2.5 / 8, 0])
    # Released: the suppressed move by -mu r p (1 - p), with p = sigmoid(-0) = 1/2: -10/8/4 and +10/8/4.
    assert updated([0.0] * 3, suppressed, losses, mu=10, rule="released") == pytest.approx([-2.5 / 8, 2.5 / 8, 0])


def test_ist_scores_sum_to_zero_and_kept_is_minus_suppressed():
    rng = random.Random(0)
    scores = [0.0] * 8
    for _ in range(20):
        low = [frozenset(rng.sample(range(8), 4)) for _ in range(3)]
        losses = [rng.uniform(1, 3) for _ in range(3)]
        kept = updated(scores, low, losses, mu=2.5, rule="paper")
        suppressed = updated(scores, [frozenset(range(8)) - s for s in low], losses, mu=-2.5, rule="paper")
        assert kept == pytest.approx(suppressed)
        scores = kept
    assert sum(scores) == pytest.approx(0, abs=1e-12)


def test_weighted_draws_are_sequential_without_replacement():
    """Three layers, weights 3:2:1, two drawn: P(0, 1 drawn) = 3/6 * 2/3 + 2/6 * 3/4 = 7/12."""
    draws = [draw_weighted([math.log(w) for w in (3, 2, 1)], 2, random.Random(f"d{i}")) for i in range(6000)]
    share_01 = sum(d == {0, 1} for d in draws) / 6000
    assert share_01 == pytest.approx(7 / 12, abs=4 * math.sqrt(7 / 12 * 5 / 12 / 6000))


def test_draws_survive_extreme_scores():
    weights = [log_sigmoid(score) for score in (-1e6, 0.0, 1e6, -2e6)]
    assert draw_weighted(weights, 3, random.Random(0)) == {0, 1, 2}


def test_log_sigmoid_is_the_log():
    for x in (-30.0, -1.0, 0.0, 2.0, 30.0):
        assert log_sigmoid(x) == pytest.approx(math.log(sigmoid(x)))


def test_sigmoid_does_not_overflow():
    assert sigmoid(-1000) == 0.0
    assert sigmoid(1000) == 1.0


def test_ist_finds_the_blocks_whose_adapters_matter():
    run = composed("method=ist", "engine=torch", *SETTINGS["ist"], "method.update_every=1")
    engine = engine_for(run)
    ctx = context_for(run, engine, 60)

    def probe(scales, number):
        return 3.0 + (1.0 if "layers.2" in scales else 0.0)

    ctx = replace(ctx, probe=probe)
    for step in range(60):
        run.method.plan(step, ctx)
    found = found_by(run, engine, ctx)
    scores = found["importance"]
    assert max(range(4), key=scores.__getitem__) == 2
    assert found["log_odds_ratio"] > math.log(1.5)


def test_the_history_is_every_update():
    """Steps 4, 8, ... with the scores that the next draw used; a resumed run has them all."""
    run = composed("method=ist", "engine=torch", *SETTINGS["ist"])
    engine = engine_for(run)
    ctx = context_for(run, engine, 13)
    harm = {"layers.0": 0.0, "layers.1": 0.1, "layers.2": 0.3, "layers.3": 0.7}
    probe = lambda scales, _: 2.0 + sum(harm[unit] for unit in scales)  # noqa: E731
    ctx = replace(ctx, probe=probe)
    seen = []
    for step in range(13):
        run.method.plan(step, ctx)
        if step in (4, 8, 12):
            seen.append([step, [round(s, 6) for s in found_by(run, engine, ctx)["importance"]]])
        if step == 9:
            saved, ctx = checkpoint.fields_of(ctx.state), replace(context_for(run, engine, 13), probe=probe)
            checkpoint.restore(ctx.state, saved)
    assert found_by(run, engine, ctx)["importance_history"] == seen
    assert len({tuple(scores) for _, scores in seen}) == 3
