"""Planning of shared prefixes: which tokens of many requests are computed once. No tensors and no model.

Sequences are sorted, so that those with a long common prefix are neighbours. A *group* is a run of neighbours whose
common prefix, the base, is computed once and kept. A *row* is a run of neighbours computed together behind the base,
as the tree (trie) of their tokens: a question, then each of its answers, every token once. Groups and rows are chosen
by the cost of attention and of the rest of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

MAX_DEPTH = 24
"""Levels of common prefixes that are considered: subject, passage, question, answer, and a wide margin."""

WORTH = 0.9
"""A sequence joins a row if that costs at most this fraction of a row of its own: masks and padding add a little."""

Span = tuple[int, int]
"""A range of the sorted sequences: start..stop-1."""


@dataclass(frozen=True)
class Cost:
    """The cost model, in units of one query-key pair of attention."""

    per_token: float
    """Cost of the rest of a block for one token."""
    per_call: float = 256
    """Fixed overhead of a forward pass, in tokens."""
    max_base: int = 1 << 30
    """Largest base, in tokens, whose keys and values may be kept."""
    max_row: int = 1 << 30
    """Largest row of more than one sequence, in tokens, its base included."""

    def of(self, tokens: int, base: int) -> float:
        """Return the cost of `tokens` in one row behind a base of `base` tokens."""
        return tokens * (self.per_token + base + tokens)


@dataclass(frozen=True)
class Group:
    """Rows behind one base: the first `base` tokens of each of their sequences; 0 = no base."""

    base: int
    rows: tuple[Span, ...]


@dataclass(frozen=True)
class Tree:
    """One row: the sequences of a span behind the base, every common prefix once, each token after its parent.

    `exits[i]` is the first token that does not descend from token i: token j attends to i where i <= j < exits[i].
    `paths[k]` holds the indices of the last `keep[k]` tokens of sequence k.
    """

    tokens: list[int]
    positions: list[int]
    exits: list[int]
    paths: list[list[int]]

    @property
    def branches(self) -> bool:
        """Return whether any token does not attend to all tokens before it."""
        return any(end < len(self.tokens) for end in self.exits)


def common(sequences: list[tuple[int, ...]]) -> list[int]:
    """Return the length of the common prefix of each sequence with the one before it; 0 for the first."""
    return [0] * bool(sequences) + [_common(a, b) for a, b in pairwise(sequences)]


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] is common, a[:high] is not; slices compare faster than a loop over tokens
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


class Planner:
    """Chooses groups and rows for sorted sequences.

    Args:
        lengths: Tokens of every sequence.
        shared: Length of its common prefix with the one before it.
        scored: Its first token whose logits are needed; a base must end before it.
        cost: The cost model.
    """

    def __init__(self, lengths: list[int], shared: list[int], scored: list[int], cost: Cost) -> None:
        self.lengths, self.shared, self.scored, self.cost = lengths, shared, scored, cost
        self.longest = max(lengths, default=0)

    def groups(self) -> list[Group]:
        """Return the groups: first all rows without a base, as one group, then those with a base."""
        spans = self._best((0, len(self.lengths)), 0)[1] if self.lengths else []
        loose = [row for span, base in spans if base == 0 for row in self._rows(span, 0)[1]]
        behind = [Group(base, tuple(self._rows(span, base)[1])) for span, base in spans if base > 0]
        return [Group(0, tuple(loose))] * bool(loose) + behind

    def _best(self, span: Span, depth: int) -> tuple[float, list[tuple[Span, int]]]:
        """Return the least cost of a span, and its partition into spans with their bases that attains it."""
        start, stop = span
        plain: tuple[float, list[tuple[Span, int]]] = self._rows(span, 0)[0], [(span, 0)]
        # Upper bound of the saving: all tokens that sequences share with the one before.
        most = sum(self.shared[start + 1 : stop]) * (self.cost.per_token + 2 * self.longest)
        if stop - start < 2 or depth >= MAX_DEPTH or most < self.cost.per_call * self.cost.per_token:
            return plain
        least = min(self.shared[start + 1 : stop])
        base = min(least, *self.scored[start:stop], self.cost.max_base)
        choices = [plain]
        if base > 0:
            once = self.cost.of(base, 0) + 2 * self.cost.per_call * self.cost.per_token
            choices.append((once + self._rows(span, base)[0], [(span, base)]))
        cuts = [i for i in range(start + 1, stop) if self.shared[i] == least]
        parts = [self._best(part, depth + 1) for part in pairwise([start, *cuts, stop])]
        choices.append((sum(part[0] for part in parts), [found for part in parts for found in part[1]]))
        return min(choices, key=lambda choice: choice[0])  # ties: the first, as one large pool batches best

    def _rows(self, span: Span, base: int) -> tuple[float, list[Span]]:
        """Return the cost of a span behind a base, and its rows: sequences join neighbours where that is cheaper."""
        total, rows = 0.0, []
        start, tokens = span[0], 0
        for i in range(*span):
            alone = self.lengths[i] - base
            if i > span[0]:
                joined = tokens + self.lengths[i] - max(self.shared[i], base)
                added = self.cost.of(joined, base) - self.cost.of(tokens, base)
                if added <= WORTH * self.cost.of(alone, base) and base + joined <= self.cost.max_row:
                    tokens = joined
                    continue
                rows.append((start, i))
                total += self.cost.of(tokens, base)
            start, tokens = i, alone
        rows.append((start, span[1]))
        return total + self.cost.of(tokens, base), rows


def tree(sequences: list[tuple[int, ...]], shared: list[int], base: int, keep: list[int]) -> Tree:
    """Return the row of some neighbours behind a base.

    Args:
        sequences: The neighbours in order.
        shared: Tokens that each shares with the one before it; the first one's does not matter.
        base: Tokens at the beginning of each that are not in the row.
        keep: Last tokens of each whose index in the row is needed; none of them is in the base.
    """
    tokens: list[int] = []
    positions: list[int] = []
    exits: list[int] = []
    path: list[int] = []  # indices of the current sequence's tokens
    paths: list[list[int]] = []
    for k, sequence in enumerate(sequences):
        first = base if k == 0 else max(shared[k], base)
        for index in path[first - base :]:
            exits[index] = len(tokens)
        path = path[: first - base] + list(range(len(tokens), len(tokens) + len(sequence) - first))
        tokens += sequence[first:]
        positions += range(first, len(sequence))
        exits += [-1] * (len(sequence) - first)
        paths.append(path[len(path) - keep[k] :])
    return Tree(tokens, positions, [len(tokens) if end < 0 else end for end in exits], paths)


def batches(sizes: list[int], base: int, budget: int) -> list[list[int]]:
    """Return batches of row indices, longest rows first; rows x (base + longest row) fits the budget, unless one row.

    sizes: tokens of the rows. budget: tokens with keys and values, padding included.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    found: list[list[int]] = []
    for i in order:
        if found and (len(found[-1]) + 1) * (base + sizes[found[-1][0]]) <= budget:
            found[-1].append(i)
        else:
            found.append([i])
    return found
