"""Gain from training one unit alone: exhaustive search over locations, layers x module types for every score."""

from __future__ import annotations

from typing import Any

from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.units import UNITS
from layerfit.report.views import common
from layerfit.report.views.scores import Scores, columns

FEW = 2
"""Up to this many modules are drawn as lines over the layers, more as a heat map."""


def gains_by_unit(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return a matrix per group and column: the gain in score over the untrained model, mean over seeds.

    Only rows whose run has a single unit in `method.units` are used.
    """
    common.option(spec, options, {})
    out: list[Matrix] = []
    for group, rows in common.groups(spec).items():
        units = {unit: row for row in rows if (unit := _unit(common.of_row(cells, row)))}
        if not units:
            notes = ("No row of this table trains one unit alone.",)
            out.append(common.nothing(common.named(group, "one unit trained alone"), rows, "heatmap", notes))
            continue
        still = next(
            (row for row in rows if (runs := common.of_row(cells, row)) and not runs[0].run.method.trains), None
        )
        every = columns(spec, cells, store, [*units.values(), *([still] if still else [])])
        out += [_matrix(group, units, still, scores, common.order_of(cells)) for scores in every]
    return out


def _unit(runs: list[Cell]) -> str | None:
    units = getattr(runs[0].run.method, "units", None) if runs else None
    return units[0] if units and len(units) == 1 else None


def _matrix(group: str, units: dict[str, Row], still: Row | None, scores: Scores, order: list[str]) -> Matrix:
    base = scores.mean(still) if still else None
    unit = UNITS[scores.column.unit]
    notes = [*scores.direction, *scores.notes]
    if still is None:
        notes.append("Scores as they are: no row of the group is the model as it was.")
    elif base is None:
        notes.append(f"Scores as they are: nothing to subtract, {still.label} has no number.")
    else:
        notes.append(f"Above {still.short}, which has {base:.{scores.decimals}f}.")
    gains = {name: None if (m := scores.mean(row)) is None else m - (base or 0.0) for name, row in units.items()}
    modules, layers, values = common.layer_map(gains, order)
    points = "points" if unit.symbol == "%" else unit.symbol or scores.column.label
    as_it_is = f"score ({unit.symbol})" if unit.symbol else scores.column.label
    sign = "" if base is None else "+"
    known = {name: gain for name, gain in gains.items() if gain is not None}
    if known:
        best, worst = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
        if not scores.higher_is_better:
            best, worst = worst, best
        high, low = (f"{known[name]:{sign}.{scores.decimals}f}" for name in (best, worst))
        notes.append(f"Best {best} ({high}), worst {worst} ({low}).")
    return Matrix(
        title=common.named(group, scores.column.label),
        row_name="trained",
        column_name="layer",
        value_name=as_it_is if base is None else f"{points} above untrained",
        rows=modules,
        columns=layers,
        values=values,
        drawing="lines" if len(modules) <= FEW else "heatmap",
        decimals=scores.decimals,
        printed=len(layers) <= 20,
        notes=tuple(notes),
    )
