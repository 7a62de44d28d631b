"""Rankings at milestones of training: module types x layers at each, and the agreement between them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from layerfit.importance.ranking import ranks, spearman
from layerfit.importance.sets import jaccard, kept
from layerfit.records.record import Record
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.views import common

RankingsByMilestone = dict[str, dict[str, Any]]
"""`25%` -> a ranking: its `scores` by unit, and measures of their reliability."""


def rankings(record: Record) -> RankingsByMilestone | None:
    """Return the rankings of a run in order of time, the last at its end; None if it has no earlier ones."""
    found = record.result.findings.get("milestones") or {}
    out = {f"{100 * float(at):g}%": found[at] for at in sorted(found, key=float) if found[at].get("scores")}
    last = record.result.findings.get("ranking") or {}
    if not out:
        return None
    return out if "100%" in out or not last.get("scores") else {**out, "100%": last}


def rankings_over_time(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return, for every row with milestones, its maps (one seed), their agreement, and the reliability of each.

    options: `fraction` of units in the compared sets (0.75).
    """
    fraction = common.option(spec, options, {"fraction": 0.75})["fraction"]
    rows = [row for group in common.groups(spec).values() for row in group]
    found = common.collect(rows, cells, store, rankings, "ranking at milestones")
    out: list[Matrix] = []
    for row in found.rows(rows):
        first = found.first(row)
        assert first is not None
        out += _maps(row, *first, common.order_of(common.of_row(cells, row)))
        seeds = {seed: r for seed, r in found.by_row[row.label].items() if list(r) == list(first[1])}
        out += [_agreement(row, seeds, found.notes), _sets(row, seeds, fraction), _reliability(row, seeds)]
    return out or [common.nothing("Rankings on the way", rows, "heatmap", found.notes)]


def quantiles(scores: dict[str, float]) -> dict[str, float]:
    """Return the quantile of every unit: (rank - 1/2) / n, near 1 for the most important."""
    return {unit: (rank - 0.5) / len(scores) for unit, rank in ranks(scores).items()}


def _maps(row: Row, seed: int | None, found: RankingsByMilestone, order: list[str]) -> list[Matrix]:
    out = []
    for at, ranking in found.items():
        modules, layers, values = common.layer_map(dict(quantiles(ranking["scores"])), order)
        which = row.label if seed is None else f"{row.label}, seed {seed}"
        title = f"{which}: after {at} of the training"
        note = "Colour: the unit's place in the ranking, 0 the least important, 1 the most."
        notes = (note,) if at == next(iter(found)) else ()
        out.append(
            Matrix(title, "module", "layer", "place in the ranking", modules, layers, values, "heatmap",
                   printed=False, notes=notes)
        )  # fmt: skip
    return out


def _between(seeds: dict[int | None, RankingsByMilestone], a: str, b: str, of: Any) -> float | None:
    return common.mean(of(r[a]["scores"], r[b]["scores"]) for r in seeds.values())


def _agreement(row: Row, seeds: dict[int | None, RankingsByMilestone], notes: tuple[str, ...]) -> Matrix:
    times = tuple(next(iter(seeds.values())))
    values = common.table([_between(seeds, a, b, spearman) for b in times] for a in times)
    note = f"Spearman's correlation of all scores, mean over {len(seeds)} seed{'s' * (len(seeds) > 1)}."
    return Matrix(
        f"{row.label}: how times agree", "after", "after", "Spearman", times, times, values, "heatmap",
        notes=(note, *notes),
    )  # fmt: skip


def _sets(row: Row, seeds: dict[int | None, RankingsByMilestone], fraction: float) -> Matrix:
    times = tuple(next(iter(seeds.values())))

    def overlap(a: dict[str, float], b: dict[str, float]) -> float | None:
        return jaccard(kept(a, fraction), kept(b, fraction))

    values = common.table([_between(seeds, a, b, overlap) for b in times] for a in times)
    title = f"{row.label}: overlap of the top {fraction:.0%}"
    return Matrix(title, "after", "after", "Jaccard", times, times, values, "heatmap")


def _reliability(row: Row, seeds: dict[int | None, RankingsByMilestone]) -> Matrix:
    """Return the reliability of each ranking: for pure noise all three measures are near 0."""
    times = tuple(next(iter(seeds.values())))

    def mean_of(key: str) -> list[float | None]:
        return [common.mean(r[at].get(key) for r in seeds.values()) for at in times]

    pairs = list(combinations(seeds.values(), 2))
    across = [common.mean(spearman(a[at]["scores"], b[at]["scores"]) for a, b in pairs) for at in times]
    return Matrix(
        title=f"{row.label}: how far a ranking can be trusted",
        row_name="compared with",
        column_name="after",
        value_name="Spearman",
        rows=("the other half of the batches", "other batches", "another seed"),
        columns=times,
        values=common.table([mean_of("split_half"), mean_of("other_data"), across]),
        drawing="lines",
        notes=("A ranking that is noise has all of these near 0.",),
    )
