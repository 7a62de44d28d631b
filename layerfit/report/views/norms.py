"""Norms by layer: of weights and adapters during training and before it, and of the update.

LISA's motivating figure compares mean norms of weights and of adapters. An adapter's norm starts at a value set by its
initialisation (PEFT: sqrt(r / 3) for each linear module, N(0, 1) for the embedding's), so both curves are shown with
the one before the first step.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from layerfit.report.cells import Cell, Store
from layerfit.report.matrix import Matrix
from layerfit.report.spec import Row, TableSpec
from layerfit.report.views import common
from layerfit.report.views.common import Found

NormFindings = dict[str, Any]
NormLine = tuple[str, list[float | None]]
HOW = "training.norms=true records norms."


def weight_norms(spec: TableSpec, cells: list[Cell], store: Store, options: dict[str, Any]) -> list[Matrix]:
    """Return two matrices per group, mean over seeds: the norms during training, and the norms of the update."""
    common.option(spec, options, {})
    out: list[Matrix] = []
    for group, rows in common.groups(spec).items():
        found = common.collect(rows, cells, store, common.finding("norms"), "norms", every=True)
        known = found.rows(rows)
        if not known:
            out.append(common.nothing(common.named(group, "norms by layer"), rows, "lines", (*found.notes, HOW)))
            continue
        units = next(iter(found.by_row[known[0].label].values()))["units"]
        out += [_weights(group, known, found, units), _updates(group, known, found, units)]
    return out


def _mean(found: Found[NormFindings], row: Row, key: str) -> list[float | None] | None:
    """Return a row's norms by unit, mean over seeds; None if its runs have none."""
    runs = [norms[key] for norms in found.by_row[row.label].values() if norms.get(key) is not None]
    return common.average(runs) if runs else None


def _weights(group: str, rows: list[Row], found: Found[NormFindings], units: list[str]) -> Matrix:
    lines: list[NormLine] = []
    notes = ["Mean over the steps of the L2 norm after each update: of the weights, and of adapters where they train."]
    for row in rows:
        adapters, before = _mean(found, row, "adapter_mean"), _mean(found, row, "adapter_initial")
        if adapters is None:
            lines.append((row.short, _mean(found, row, "mean") or []))
            continue
        lines.append((f"{row.short}, adapters", adapters))
        if before is not None:
            lines.append((f"{row.short}, adapters before training", before))
            ratios = [a / b for a, b in zip(adapters, before, strict=True) if a is not None and b]
            if ratios:
                notes.append(
                    f"{row.short}: the adapters' mean norm is {min(ratios):.2f} to {max(ratios):.2f} times the one "
                    f"before training (median {median(ratios):.2f}); 1.00 would be their initialisation alone."
                )
    initial = next((line for row in rows if (line := _mean(found, row, "initial"))), None)
    if initial is not None:
        lines.append(("weights before training", initial))
    return _matrix(common.named(group, "mean norm by layer"), lines, units, (*notes, *found.notes))


def _updates(group: str, rows: list[Row], found: Found[NormFindings], units: list[str]) -> Matrix:
    lines: list[NormLine] = []
    for row in rows:
        update, adapters = _mean(found, row, "update"), _mean(found, row, "adapter_update")
        # Adapters change the model without changing its weights: where weights are frozen, show the adapters' update.
        still = update is None or not any(update)
        if adapters is not None and still:
            lines.append((f"{row.short}, adapters", adapters))
        elif update is not None:
            lines.append((row.short, update))
    note = "L2 norm of what training added to the weights, of adapters the matrix that they add. A 0 (never trained) a "
    return _matrix(
        common.named(group, "norm of the update by layer"),
        lines or [(row.short, [None] * len(units)) for row in rows],
        units,
        (note + "logarithmic axis cannot show.",),
    )


def _matrix(title: str, lines: list[NormLine], units: list[str], notes: tuple[str, ...]) -> Matrix:
    return Matrix(
        title=title,
        row_name="what",
        column_name="layer",
        value_name="L2 norm",
        rows=tuple(name for name, _ in lines),
        columns=tuple(unit.removeprefix("layers.") for unit in units),
        values=common.table([*line, *[None] * (len(units) - len(line))] for _, line in lines),
        drawing="lines",
        printed=len(units) <= 22,
        log=True,
        notes=notes,
    )
