"""Overlap of the most important units of data sets, against chance.

A row is a data set (or another basis of a ranking), a group is a model. Two random sets of three quarters of the units
overlap by 0.60 (Jaccard), so a number means nothing without its chance level; a ranking that separates module types but
not layers overlaps by more, hence a second level of chance with types kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

from layerfit.errors import UserError
from layerfit.importance.ranking import spearman
from layerfit.importance.sets import Chance, chance, jaccard, kept
from layerfit.records.record import Record
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.views import common
from layerfit.report.views.common import Found

UnitScores = dict[str, float]
KEPT = ("kept", "chance", "chance within types", "same data, other seed")
REST = ("frozen", "frozen, chance", "Spearman")


def ranking(record: Record) -> UnitScores | None:
    """Return the scores by unit of a run that ranked, else None."""
    return (record.result.findings.get("ranking") or {}).get("scores") or None


def overlaps(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return three matrices per model: data x data; every pair with its chance levels and ceiling; the sets left out.

    options: `fraction` of units kept (0.75); `published`: group -> row -> row -> the paper's Jaccard.

    Raises:
        UserError: if an option is wrong.
    """
    chosen = common.option(spec, options, {"fraction": 0.75, "published": {}})
    if not 0 < chosen["fraction"] < 1:
        raise UserError(f"{spec.file}: views.jaccard.fraction={chosen['fraction']!r} is no share between 0 and 1")
    out: list[Matrix] = []
    beside: list[Matrix] = []
    for group, rows in common.groups(spec).items():
        found = common.collect(rows, cells, store, ranking, "ranking")
        rows = [row for row in rows if row.label in found.about]
        published = _published(spec, group, rows, chosen["published"])
        if not rows:
            out.append(common.nothing(common.named(group, "overlap of rankings"), rows, "heatmap", found.notes))
            continue
        out.append(_square(group, rows, found, chosen["fraction"], published))
        if len(rows) > 1:
            beside += _pairs(group, rows, found, chosen["fraction"], published)
    # The same matrices of different models become neighbours: they are drawn together.
    return out + beside[::2] + beside[1::2]


def _of_pairs(found: Found[UnitScores], a: Row, b: Row) -> list[tuple[UnitScores, UnitScores]]:
    """Return the pairs of rankings to compare: of different seeds, unless there is one seed only."""
    first, second = found.by_row.get(a.label, {}), found.by_row.get(b.label, {})
    if a is b:
        return list(combinations(first.values(), 2))
    pairs = [(s, t) for s, t in product(first, second) if s != t] or list(product(first, second))
    return [(first[s], second[t]) for s, t in pairs if set(first[s]) == set(second[t])]


def _overlap(pairs: list[tuple[UnitScores, UnitScores]], fraction: float) -> float | None:
    return common.mean(jaccard(kept(a, fraction), kept(b, fraction)) for a, b in pairs)


def _square(
    group: str, rows: list[Row], found: Found[UnitScores], fraction: float, published: Mapping[tuple[str, str], float]
) -> Matrix:
    labels = tuple(row.short for row in rows)
    notes = [
        f"Sets: the top {fraction:.0%} of the units. Diagonal: the same data with another seed, the most that other "
        "data can be expected to reach. Pairs are of different seeds where there are several."
    ]
    example = next((scores for seeds in found.by_row.values() for scores in seeds.values()), None)
    if example:
        level = _chance(example, example, fraction, typed=False)
        notes.append(f"Chance: {level.mean:.3f}, 95% of blind draws from {level.low:.3f} to {level.high:.3f}.")
    return Matrix(
        title=common.named(group, f"Jaccard of the top {fraction:.0%}"),
        row_name="data",
        column_name="data",
        value_name="Jaccard",
        rows=labels,
        columns=labels,
        values=common.table([_overlap(_of_pairs(found, a, b), fraction) for b in rows] for a in rows),
        drawing="heatmap",
        published=common.table([published.get((a, b)) for b in labels] for a in labels) if published else None,
        notes=(*notes, *found.notes),
    )


def _chance(a: UnitScores, b: UnitScores, fraction: float, *, typed: bool) -> Chance:
    of = {unit: common.layer_and_module(unit)[1] if typed else "" for unit in a}
    level = chance(kept(a, fraction), kept(b, fraction), of)
    assert level is not None
    return level


def _pair(found: Found[UnitScores], a: Row, b: Row, fraction: float) -> tuple[list[float | None], float | None]:
    """Return one line of the comparison with chance, and p: the share of draws with types kept that overlap as much."""
    pairs = _of_pairs(found, a, b)
    rest = [(frozenset(x) - kept(x, fraction), frozenset(y) - kept(y, fraction)) for x, y in pairs]
    levels = [(_chance(x, y, fraction, typed=False), _chance(x, y, fraction, typed=True)) for x, y in pairs]
    ceilings = [_overlap(_of_pairs(found, row, row), fraction) for row in (a, b)]
    frozen = [chance(x, y, dict.fromkeys(pairs[0][0], "")) for x, y in rest]
    line = [
        _overlap(pairs, fraction),
        common.mean(level.mean for level, _ in levels),
        common.mean(level.mean for _, level in levels),
        common.mean(ceilings) if None not in ceilings else None,
        common.mean(jaccard(x, y) for x, y in rest),
        common.mean(level.mean if level else None for level in frozen),
        common.mean(spearman(x, y) for x, y in pairs),
    ]
    return line, max((level.p for _, level in levels), default=None)


def _pairs(
    group: str, rows: list[Row], found: Found[UnitScores], fraction: float, published: Mapping[tuple[str, str], float]
) -> list[Matrix]:
    """Return the pairs with chance and ceiling, and the agreement of the sets left out and of all scores."""
    pairs = list(combinations(rows, 2))
    lines = [_pair(found, a, b, fraction) for a, b in pairs]
    names = tuple(f"{a.short}, {b.short}" for a, b in pairs)
    notes = [
        "Chance: two blind sets of these sizes (hypergeometric, exact). Chance within types: each set keeps how many "
        "units of each module type it holds, and which layers they are in is drawn (hypergeometric by type, exact): a "
        "ranking of module types alone reaches it."
    ]
    for name, (_, p) in zip(names, lines, strict=True):
        if p is not None:
            size = "below 0.001" if p < 0.001 else f"{p:.3f}"
            notes.append(f"{name}: p {size} against chance within types (largest over pairs of seeds).")
    theirs = [published.get((a.short, b.short), published.get((b.short, a.short))) for a, b in pairs]
    cut = len(KEPT)
    kept_sets = Matrix(
        title=common.named(group, "overlap beside chance"),
        row_name="pair",
        column_name="measure",
        value_name="Jaccard",
        rows=names,
        columns=(f"kept {fraction:.0%}", *KEPT[1:]),
        values=common.table(line[:cut] for line, _ in lines),
        drawing="bars",
        published=common.table((value, *(None,) * (cut - 1)) for value in theirs) if published else None,
        notes=(*notes, *found.notes),
    )
    rest = Matrix(
        title=common.named(group, "the sets left out, and all scores"),
        row_name="pair",
        column_name="measure",
        value_name="Jaccard; Spearman's correlation",
        rows=names,
        columns=REST,
        values=common.table(line[cut:] for line, _ in lines),
        drawing="bars",
        notes=("Spearman: of the scores of all units. Frozen: the units that are not kept.",),
    )
    return [kept_sets, rest]


def _published(
    spec: TableSpec, group: str, rows: list[Row], given: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> dict[tuple[str, str], float]:
    """Return the paper's numbers by pair of rows: from the view's option, else from columns named like the rows."""
    out = {(a, b): float(v) for a, line in given.get(group, {}).items() for b, v in line.items() if v is not None}
    if given:
        return out
    shorts = [row.short for row in rows]
    for row in rows:
        for column, value in spec.published.get(row.label, {}).items():
            name = column.removeprefix(group).strip()
            if name in shorts:
                out[row.short, name] = value.value
    return out
