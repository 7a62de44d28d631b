"""How requests are laid out before anything is computed: sequences, trees and batches, by hand."""

import random

from layerfit.evaluation.lm_eval.prefix_tree import Cost, Group, Planner, batches, common, tree


def test_a_tree_by_hand():
    row = tree([(1, 2, 3, 4), (1, 2, 3, 5, 6), (1, 2, 7)], [0, 3, 2], 1, [2, 2, 1])
    assert row.tokens == [2, 3, 4, 5, 6, 7]
    assert row.positions == [1, 2, 3, 3, 4, 2]
    assert row.exits == [6, 5, 3, 5, 5, 6]  # 2 is seen by all; 3 by 4, 5, 6; 4 by itself; 5 by 6
    assert row.paths == [[1, 2], [3, 4], [5]]
    assert row.branches
    assert not tree([(1, 2), (1, 2, 3)], [0, 2], 0, [1, 1]).branches


def test_shared_beginnings_are_counted():
    assert common([(1, 2, 3), (1, 2, 3), (1, 2, 3, 4), (1, 3), (2,)]) == [0, 3, 3, 1, 0]
    rng = random.Random(0)
    drawn = sorted(tuple(rng.randrange(2) for _ in range(rng.randint(1, 9))) for _ in range(200))
    for a, b, shared in zip(drawn, drawn[1:], common(drawn)[1:], strict=False):
        assert a[:shared] == b[:shared]
        assert a[shared : shared + 1] != b[shared : shared + 1] or len(a) == shared or len(b) == shared


def test_long_shots_are_kept_and_short_ones_are_not():
    cost = Cost(per_token=400, per_call=50)
    for shots, base in ((300, 300), (3, 0)):
        lengths, shared = [shots + 60] * 20, [0] + [shots] * 19
        groups = Planner(lengths, shared, [shots + 59] * 20, cost).groups()
        assert groups == [Group(base, tuple((i, i + 1) for i in range(20)))]
    scored_early = Planner([310] * 20, [0] + [300] * 19, [200] * 20, cost).groups()
    assert [group.base for group in scored_early] == [200]
    small = Planner([310] * 20, [0] + [300] * 19, [309] * 20, Cost(400, 50, max_base=120)).groups()
    assert [group.base for group in small] == [120]


def test_batches_keep_to_the_budget():
    sizes = [5, 30, 7, 7, 1, 64]
    for budget in (10, 64, 200):
        found = batches(sizes, 4, budget)
        assert sorted(i for batch in found for i in batch) == list(range(6))
        assert all(len(b) == 1 or len(b) * (4 + max(sizes[i] for i in b)) <= budget for b in found)
