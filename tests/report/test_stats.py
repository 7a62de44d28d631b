"""The paired test: by hand, against a plain t-test, and by how often it cries wolf."""

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit

from layerfit.report.stats import Comparison, NotTestable, Spread, compare, deviation, holm, interval, two_sources

RUNS = 2000  # a rate of 5% is known to 0.5 points


def test_the_variance_has_two_shares_by_hand():
    # Seed means 1, 3: s2_seed = 2, A = 2/2 = 1. Item means 1, 2, 3: s2_item = 1, B = 1/3.
    d = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    result = compare(d, np.zeros((2, 3)))
    assert isinstance(result, Comparison)
    assert result.difference == 2.0
    assert result.spread.variance == pytest.approx(4 / 3)
    # (4/3)^2 / (1^2 / 1 + (1/3)^2 / 2) = (16/9) / (19/18) = 32/19
    # Cochran: the level p at which (1 t_1(p) + 1/3 t_2(p)) / (4/3) is the t found.
    tail = result.p / 2
    assert -(stdtrit(1, tail) + stdtrit(2, tail) / 3) / (4 / 3) == pytest.approx(2 / (4 / 3) ** 0.5)
    assert compare(np.zeros((2, 3)), d).p == result.p


def plain_t(x: np.ndarray) -> float:
    return 2 * float(stdtr(len(x) - 1, -abs(x.mean()) / (x.std(ddof=1) / len(x) ** 0.5)))


def test_with_one_source_it_is_the_plain_paired_test():
    rng = np.random.default_rng(0)
    items = rng.normal(0.1, 1, size=(1, 50))
    assert compare(np.repeat(items, 3, axis=0), np.zeros((3, 50))).p == pytest.approx(plain_t(items[0]))
    seeds = rng.normal(0.5, 1, size=(6, 1))
    assert compare(np.repeat(seeds, 40, axis=1), np.zeros((6, 40))).p == pytest.approx(plain_t(seeds[:, 0]))


def test_a_run_without_seeds_stands_for_every_seed():
    rng = np.random.default_rng(1)
    method, still = rng.normal(size=(4, 30)), rng.normal(size=(1, 30))
    assert compare(method, still) == compare(method, np.repeat(still, 4, axis=0))


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [((1, 9), (1, 9), "fewer than two seeds"), ((3, 9), (3, 8), "items"), ((3, 9), (5, 9), "seeds against")],
)
def test_what_cannot_be_tested_says_why(first, second, reason):
    result = compare(np.zeros(first), np.ones(second))
    assert isinstance(result, NotTestable)
    assert reason in result.reason


def test_nothing_varying_is_certain_not_an_error():
    same = np.full((3, 20), 0.1)
    assert compare(same, same).p == 1.0
    assert compare(same + 0.3, same).p == 0.0
    assert compare(same + 0.3, same).detectable() == 0.0
    assert interval(same) == (pytest.approx(0.1), pytest.approx(0.1))


def test_one_share_of_zero_is_left_out_with_its_degrees_of_freedom():
    d = np.repeat(np.arange(5.0)[None], 3, axis=0)
    assert two_sources(d).shares == ((pytest.approx(0.5), 4.0),)
    assert two_sources(d.T).shares == ((pytest.approx(0.5), 4.0),)


def satterthwaite_df(spread):
    """(A + B)^2 / (A^2 / (S - 1) + B^2 / (n - 1))."""
    return spread.variance**2 / sum(share**2 / df for share, df in spread.shares)


def test_cochran_never_asks_for_less_than_satterthwaite():
    for seeds in (2, 3, 5, 10):
        for part in np.linspace(0.001, 0.999, 40):
            spread = Spread(((part, seeds - 1.0), (1 - part, 1999.0)))
            for tail in (0.025, 0.025 / 6, 0.2):
                assert spread.critical(tail) >= -stdtrit(satterthwaite_df(spread), tail) - 1e-9


def test_holm_steps_down_and_stays_monotone():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([0.50, 0.003, 0.32, 0.054, 0.0003], [0.64, 0.012, 0.64, 0.162, 0.0015]),  # manual of pingouin.multicomp
        ([0.319, 0.201, 0.4, 0.374, 0.113], [0.957, 0.804, 0.957, 0.957, 0.565]),  # manual of stdlib's padjust
    ],
)
def test_holm_gives_the_published_examples(ps, adjusted):
    assert holm(ps) == pytest.approx(adjusted)


def test_one_run_has_no_spread():
    assert deviation([0.5]) is None
    assert deviation([0.4, 0.6]) == pytest.approx(0.02**0.5)


def null(rng, seeds, items, *, seed=0.0, item=0.0, residual=0.0, groups=0, grouped=0.0):
    """Differences of two methods that are equally good. grouped: seed effects that hit whole groups of items."""
    d = seed * rng.standard_normal((seeds, 1)) + item * rng.standard_normal((1, items))
    d = d + residual * rng.standard_normal((seeds, items))
    if groups:
        d = d + grouped * np.repeat(rng.standard_normal((seeds, groups)), items // groups, axis=1)
    return d


def rate(found, seeds, items, level=0.05, **noise):
    rng = np.random.default_rng([seeds, items, *(int(1e4 * v) for v in noise.values())])
    return np.mean([found(null(rng, seeds, items, **noise), level) for _ in range(RUNS)])


def ours(d, level):
    return abs(d.mean()) > two_sources(d).reach(level / 2)


def satterthwaite(d, level):
    spread = two_sources(d)
    return 2 * stdtr(satterthwaite_df(spread), -abs(d.mean()) / spread.variance**0.5) < level


def pooled(d, level):
    return plain_t(d.ravel()) < level


NOISE = {
    # Items decide: the same model whatever the seed. The last number: the least rate, so that it is not blind.
    "items": (400, {"item": 0.5}, 0.035),
    "many items": (2000, {"item": 0.5}, 0.035),
    # Every seed answers anew: the noise of an answer is in both shares, so that the variance is up to twice too large.
    "items and answers": (400, {"item": 0.3, "residual": 0.3}, 0.01),
    "answers": (400, {"residual": 0.5}, 0.0005),
    "seeds": (400, {"seed": 0.1, "item": 0.1, "residual": 0.2}, 0.03),
    "both": (200, {"seed": 0.03, "item": 0.5, "residual": 0.2}, 0.01),
    # Items go together: a seed wins or loses whole groups of them.
    "groups of items": (400, {"item": 0.3, "residual": 0.2, "groups": 20, "grouped": 0.3}, 0.02),
}


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", NOISE)
def test_it_cries_wolf_in_one_case_of_twenty_at_most(seeds, name):
    items, noise, least = NOISE[name]
    assert least <= rate(ours, seeds, items, **noise) <= 0.06


def test_the_p_value_is_the_level_that_is_just_reached():
    d = null(np.random.default_rng(3), 3, 200, seed=0.1, item=0.5)
    p = compare(d, np.zeros_like(d)).p
    assert ours(d, p * 1.001)
    assert not ours(d, p * 0.999)


def test_why_cochran_and_not_satterthwaite():
    # Seeds carry ten times the items' noise: the first level of Holm over six methods, 0.83%.
    noise = {"seed": 0.1 * (3 / 400) ** 0.5 * 10**0.5, "item": 0.1}
    assert rate(satterthwaite, 3, 400, level=0.05 / 6, **noise) > 0.02
    assert rate(ours, 3, 400, level=0.05 / 6, **noise) < 0.018


@pytest.mark.parametrize("seeds", [3, 5])
def test_why_seeds_and_items_are_not_pooled(seeds):
    items, noise, _ = NOISE["seeds"]
    assert rate(pooled, seeds, items, **noise) > 0.5
    assert rate(pooled, seeds, *NOISE["groups of items"][:1], **NOISE["groups of items"][1]) > 0.3


def test_the_detectable_difference_is_found_in_four_cases_of_five():
    rng, found = np.random.default_rng(7), []
    # The promise is for the true variance: 0.05^2 / 5 + 0.3^2 / 400, with the degrees of freedom of its shares.
    promise = Comparison(0.0, Spread(((0.05**2 / 5, 4.0), (0.3**2 / 400, 399.0))), 1.0).detectable()
    for _ in range(RUNS):
        d = promise + null(rng, 5, 400, seed=0.05, item=0.3)
        found.append(ours(d, 0.05))
    assert 0.74 <= np.mean(found) <= 0.86


def test_the_true_best_of_seven_equal_methods_stays_bold():
    rng, lost = np.random.default_rng(11), 0
    for _ in range(400):
        methods = [null(rng, 3, 200, seed=0.05, item=0.3) for _ in range(7)]
        best = max(range(7), key=lambda i: methods[i].mean())
        others = [i for i in range(7) if i != best]
        ps = holm([compare(methods[best], methods[i]).p for i in others])
        lost += dict(zip(others, ps, strict=True)).get(0, 1.0) <= 0.05  # any one of them may be the true best
    assert lost / 400 <= 0.05
