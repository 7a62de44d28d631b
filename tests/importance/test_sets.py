"""Sets of units: overlap, and the chance level against published values, brute force and simulation."""

from itertools import combinations

import numpy as np
import pytest

from layerfit.importance.sets import chance, jaccard, kept

UNITS = [f"layers.{i}.{m}" for i in range(32) for m in ("q", "k", "v", "o", "gate", "up", "down")]
ONE = dict.fromkeys(UNITS, "")


def test_the_top_three_of_four():
    assert kept({"a": 0.1, "b": 3.0, "c": -2.0, "d": 0.5}, 0.75) == {"a", "b", "d"}


def test_equal_scores_go_by_name_and_the_rest_is_what_a_fine_tune_freezes():
    """Freezing takes the round(f n) lowest, ties by name: the same sets."""
    from layerfit.methods.ila import ILA

    scores = {unit: float(i % 5) for i, unit in enumerate(UNITS)}
    assert set(UNITS) - kept(scores, 0.75) == ILA(freeze_fraction=0.25).frozen_units(UNITS, [scores])


def test_jaccard_by_hand():
    assert jaccard(frozenset("abc"), frozenset("bcd")) == 2 / 4
    assert jaccard(frozenset(), frozenset()) is None


@pytest.mark.parametrize(
    ("fraction", "mean", "low", "high"),
    [
        (0.10, 0.053, 0.000, 0.128),
        (0.25, 0.144, 0.087, 0.204),
        (0.50, 0.333, 0.280, 0.391),
        (0.75, 0.600, 0.563, 0.639),
    ],
)
def test_chance_for_a_7b_is_what_drawing_sets_gives(fraction, mean, low, high):
    """224 modules; the numbers are of 4,000 simulated pairs."""
    size = round(fraction * 224)
    found = chance(frozenset(UNITS[:size]), frozenset(UNITS[-size:]), ONE)
    assert found.mean == pytest.approx(mean, abs=0.002)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)


def test_chance_is_the_mean_over_every_set_of_that_size():
    kinds = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b"}
    a, b = frozenset(("a1", "a2", "b1")), frozenset(("a1", "b1", "b2"))
    anywhere = [jaccard(a, frozenset(s)) for s in combinations(kinds, 3)]
    free = chance(a, b, dict.fromkeys(kinds, ""))
    assert free.mean == pytest.approx(np.mean(anywhere))
    assert free.p == pytest.approx(np.mean([j >= jaccard(a, b) for j in anywhere]))
    inside = [jaccard(a, frozenset((x, "b1", "b2"))) for x in ("a1", "a2", "a3")]  # one of type a, both of type b
    typed = chance(a, b, kinds)
    assert typed.mean == pytest.approx(np.mean(inside))
    assert typed.p == pytest.approx(2 / 3)


def test_a_ranking_of_types_alone_is_far_above_chance_and_not_above_its_types():
    rng = np.random.default_rng(0)
    bias = {"q": 0.0, "k": 0.0}
    draws = [{u: bias.get(u.split(".")[2], 5.0) + rng.random() for u in UNITS} for _ in range(2)]
    a, b = (kept(scores, 0.75) for scores in draws)
    assert chance(a, b, ONE).p < 1e-6
    assert chance(a, b, {u: u.split(".")[2] for u in UNITS}).p > 0.01
