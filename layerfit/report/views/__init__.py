"""Views of a table: matrices computed from the findings of its runs, one file per kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerfit.errors import check_one_of
from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import TableSpec
from layerfit.report.views import (
    ablation,
    greedy,
    importance,
    jaccard,
    location,
    memory,
    milestones,
    norms,
    speed,
    subset,
)

View = Callable[[TableSpec, list[Cell], Store, dict[str, Any]], list[Matrix]]
VIEWS: dict[str, View] = {
    "ablation": ablation.percentiles,
    "greedy": greedy.removals,
    "importance": importance.learned_scores,
    "jaccard": jaccard.overlaps,
    "location": location.gains_by_unit,
    "memory": memory.memory_by_part,
    "milestones": milestones.rankings_over_time,
    "norms": norms.weight_norms,
    "speed": speed.relative_speed,
    "subset": subset.scores_by_count,
}
"""Kind, as in a table's `views` -> its function. Pure: no files, no torch."""


def compute(spec: TableSpec, cells: list[Cell], store: Store) -> list[Matrix]:
    """Return the matrices of all views of a table, in order.

    Raises:
        UserError: if a view's kind is unknown.
    """
    out: list[Matrix] = []
    for options in spec.views:
        check_one_of(f"{spec.file}: views.kind", options["kind"], tuple(VIEWS))
        out += VIEWS[options["kind"]](spec, cells, store, options)
    return out
