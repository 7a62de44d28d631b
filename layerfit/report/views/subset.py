"""Score by number of trained layers, one line per way of choosing them.

Both are parsed from a row's label: `Most important 4`, `Least important 25%`, `Random 4, draw 2` (draws are averaged).
Rows without a number are references, the same for every number.
"""

from __future__ import annotations

import re
from typing import Any

from layerfit.errors import UserError
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.views import common
from layerfit.report.views.scores import Scores, columns, merged

PATTERN = r"(?P<arm>.*?\D)[ ,:]*\b(?P<k>\d+%?)(?!\w).*"
Arms = dict[str, dict[str, list[Row]]]


def scores_by_count(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return a matrix per group and column: ways of choosing x number of layers.

    options: `pattern`, a regular expression with groups `arm` and `k`, for labels of another form.

    Raises:
        UserError: if the pattern is invalid, or no row's label has a number.
    """
    pattern = common.option(spec, options, {"pattern": PATTERN})["pattern"]
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{spec.file}: views.subset.pattern={pattern!r} is no regular expression: {error}") from error
    if not {"arm", "k"} <= set(expression.groupindex):
        raise UserError(f"{spec.file}: views.subset.pattern={pattern!r} lacks the groups (?P<arm>...) and (?P<k>...)")
    out = []
    for group, rows in common.groups(spec).items():
        arms, references = _arms(rows, expression)
        if not arms:
            raise UserError(f"{spec.file}: views.subset: no label of a row says a number of layers: {rows[0].label!r}")
        every = columns(spec, cells, store, rows)
        out += [_matrix(group, arms, references, scores, merged([scores])) for scores in every]
    return out


def _arms(rows: list[Row], expression: re.Pattern[str]) -> tuple[Arms, list[Row]]:
    arms: Arms = {}
    references: list[Row] = []
    for row in rows:
        match = expression.fullmatch(row.short)
        if match is None:
            references.append(row)
        else:
            arms.setdefault(match["arm"].strip(" ,:"), {}).setdefault(match["k"], []).append(row)
    return arms, references


def _matrix(group: str, arms: Arms, references: list[Row], scores: Scores, notes: tuple[str, ...]) -> Matrix:
    numbers = sorted({k for by_number in arms.values() for k in by_number}, key=lambda k: float(k.rstrip("%")))
    lines = [
        [common.mean(scores.mean(row) for row in by_number.get(k, [])) for k in numbers] for by_number in arms.values()
    ]
    lines += [[scores.mean(row)] * len(numbers) for row in references]
    several = [arm for arm, by_number in arms.items() if any(len(rows) > 1 for rows in by_number.values())]
    own = [f"{', '.join(several)}: mean over draws."] if several else []
    if references:
        own.append(f"{', '.join(row.short for row in references)}: the same for every number of layers.")
    return Matrix(
        title=common.named(group, scores.column.label),
        row_name="layers chosen",
        column_name="share of layers trained" if "%" in numbers[0] else "layers trained",
        value_name=scores.name,
        rows=(*arms, *(row.short for row in references)),
        columns=tuple(numbers),
        values=common.table(lines),
        drawing="lines",
        decimals=scores.decimals,
        notes=(*own, *scores.direction, *notes),
    )
