"""Kinds of tests: each a pure function from numbers to cases. A case's distance is > 0 where the claim holds.

better: rows against rows, higher (or, of a cost, lower) is better. not_worse, equivalent: the same within a margin.
differ: in either direction. interaction: a difference that is larger in one column than in another. spread: runs of a
row against each other. at_least, at_most: a number, a ratio, or a cell of a view's matrix, against a threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from math import log
from typing import Any

from layerfit.claims.cases import Case, Missing, case
from layerfit.claims.matrices import matrix_cases
from layerfit.claims.sources import NumberSource
from layerfit.errors import UserError
from layerfit.report.checks import listed
from layerfit.report.compare import Estimate, deviation_interval, deviation_p, log_of
from layerfit.report.spec import Column, Row, TableSpec
from layerfit.report.units import UNITS

Options = dict[str, Any]
Cases = list[Case | Missing]


def matches(label: str, pattern: str) -> bool:
    """Return whether a label equals the pattern or matches it (`LoRA w/ RL*`)."""
    return label == pattern or fnmatchcase(label, pattern)


def columns_of(spec: TableSpec, patterns: list[str] | None) -> list[Column]:
    """Return the columns that match the patterns, all for None.

    Raises:
        UserError: if a pattern matches no column.
    """
    if patterns is None:
        return list(spec.columns)
    out = []
    for pattern in patterns:
        found = [column for column in spec.columns if matches(column.label, pattern)]
        if not found:
            names = ", ".join(column.label for column in spec.columns)
            raise UserError(f"{spec.file} has no column {pattern!r}; columns: {names}")
        out += [column for column in found if column not in out]
    return out


def rows_of(spec: TableSpec, pattern: str) -> list[Row]:
    """Return the rows that match a pattern, by their full label or the one inside their group.

    Raises:
        UserError: if there is none.
    """
    found = [row for row in spec.rows if matches(row.label, pattern) or matches(row.short, pattern)]
    if not found:
        raise UserError(f"{spec.file} has no row {pattern!r}; rows: {listed((row.label for row in spec.rows), 12)}")
    return found


def pairs_of(spec: TableSpec, pairs: list[list[str]]) -> list[tuple[Row, Row]]:
    """Return the pairs of rows that match, each inside one group: items differ between groups.

    Raises:
        UserError: if no group has both rows of a pair.
    """
    out = []
    for first, second in pairs:
        left, right = rows_of(spec, first), rows_of(spec, second)
        found = [(a, b) for a in left for b in right if a.group == b.group and a != b]
        if not found:
            raise UserError(f"{spec.file} has no group with the rows {first!r} and {second!r}")
        # `differ` gives the same set of rows twice: keep each pair once.
        out += [pair for pair in found if pair not in out and pair[::-1] not in out]
    return out


def margin_of(options: Options, column: Column) -> float:
    """Return the margin in the column's printed unit. The option is one number, or one by unit (by column without one).

    Raises:
        UserError: if there is none for this column.
    """
    given = options["margin"]
    if not isinstance(given, dict):
        return float(given)
    margin = given.get(column.label, given.get(column.unit))
    if margin is None:
        raise UserError(f"a margin is given for {', '.join(given)}; column {column.label} is in {column.unit}")
    return float(margin)


def _name(first: Row, second: Row, column: str) -> str:
    group = f"{first.group}: " if first.group else ""
    return f"{group}{first.short} - {second.short}, {column}"


def _symbol(column: Column) -> str:
    if column.key is None:  # a column without numbers has no unit
        return ""
    return "points" if column.unit == "percent" else UNITS[column.unit].symbol


def _shown(estimate: Estimate | str, name: str, column: Column, distance: Callable[[float], float]) -> Case | Missing:
    if isinstance(estimate, str):
        return Missing(name, estimate)
    decimals = max(2, UNITS[column.unit].decimals)
    return case(name, estimate, distance(estimate.value), unit=_symbol(column), signed=True, decimals=decimals)


def _differences(
    source: NumberSource, options: Options, distance: Callable[[float, Column], float], sign: Callable[[Column], float]
) -> Iterator[Case | Missing]:
    for first, second in pairs_of(source.spec, options["pairs"]):
        for column in columns_of(source.spec, options.get("columns")):
            one = source.difference(first, second, column)
            direction = sign(column)

            def far(value: float, column: Column = column, direction: float = direction) -> float:
                return distance(direction * value, column)

            if column.hole is not None and isinstance(one, str):
                yield Missing(column.label, one)
            else:
                yield _shown(one, _name(first, second, column.label), column, far)


def better(source: NumberSource, options: Options) -> Cases:
    """The first row of every pair is better than the second."""
    return list(_differences(source, options, lambda d, _: d, lambda c: 1.0 if source.higher(c) else -1.0))


def not_worse(source: NumberSource, options: Options) -> Cases:
    """The first row is at most `margin` worse than the second."""
    far = lambda d, column: d + margin_of(options, column)  # noqa: E731
    return list(_differences(source, options, far, lambda c: 1.0 if source.higher(c) else -1.0))


def equivalent(source: NumberSource, options: Options) -> Cases:
    """The two rows differ by less than `margin`: the 95% interval lies inside it (two one-sided tests at 2.5%)."""
    far = lambda d, column: margin_of(options, column) - abs(d)  # noqa: E731
    return list(_differences(source, options, far, lambda _: 1.0))


def differ(source: NumberSource, options: Options) -> Cases:
    """The two rows differ, in either direction."""
    return list(_differences(source, options, lambda d, _: abs(d), lambda _: 1.0))


def interaction(source: NumberSource, options: Options) -> Cases:
    """The difference first - second is larger in every column of `more` than in every column of `less`."""
    out: Cases = []
    for first, second in pairs_of(source.spec, options["pairs"]):
        for more in columns_of(source.spec, options["more"]):
            for less in columns_of(source.spec, options["less"]):
                one = source.interaction(first, second, more, less)
                sign = 1.0 if source.higher(more) else -1.0
                name = _name(first, second, f"{more.label} - {less.label}")
                out.append(_shown(one, name, more, lambda value, sign=sign: sign * value))  # type: ignore[misc]
    return out


def spread(source: NumberSource, options: Options) -> Cases:
    """The standard deviation of a row's runs is below `margin`. Columns of one seed each are pooled."""
    by_key: dict[str, list[Column]] = {}
    for column in columns_of(source.spec, options.get("columns")):
        by_key.setdefault(column.label if column.seed is None else str(column.key), []).append(column)
    out: Cases = []
    for pattern in options["rows"]:
        for row in rows_of(source.spec, pattern):
            for columns in by_key.values():
                out.append(_deviation(source, row, tuple(columns), options))
    return out


def _deviation(source: NumberSource, row: Row, columns: tuple[Column, ...], options: Options) -> Case | Missing:
    name = f"{row.label}, {columns[0].label if len(columns) == 1 else 'its seeds'}"
    found = source.deviation(row, columns)
    if isinstance(found, str):
        return Missing(name, found)
    bound = margin_of(options, columns[0])
    p = interval = None
    if found.tested and found.value > 0:
        p, interval = deviation_p(found.value, found.runs, bound), deviation_interval(found.value, found.runs)
    items = "" if found.items is None else f" (items alone: {found.items:.2f})"
    distance = bound - found.value
    return Case(f"{name}{items}", found.value, distance, interval, p, "printed values", unit=_symbol(columns[0]),
                signed=False)  # fmt: skip


def at_least(source: NumberSource, options: Options) -> Cases:
    """A number reaches `threshold`."""
    return _against(source, options, 1.0)


def at_most(source: NumberSource, options: Options) -> Cases:
    """A number stays below `threshold`."""
    return _against(source, options, -1.0)


def _against(source: NumberSource, options: Options, sign: float) -> Cases:
    threshold = float(options["threshold"])
    if "view" in options:
        return matrix_cases(source, options, threshold, sign)
    out: Cases = []
    columns = columns_of(source.spec, options.get("columns"))
    for first, second in pairs_of(source.spec, options.get("ratio") or []):
        for column in columns:
            one = source.ratio(first, second, column)
            name = _name(first, second, column.label).replace(" - ", " / ", 1)
            out.append(_level(one, name, "x", sign, log(threshold)))
    for pattern in options.get("rows") or []:
        for row in rows_of(source.spec, pattern):
            for column in columns:
                level = source.level(row, column)
                bound = threshold if isinstance(level, str) else log_of(threshold, level)
                out.append(_level(level, f"{row.label}, {column.label}", _symbol(column), sign, bound))
    return out


def _level(one: Estimate | str, name: str, unit: str, sign: float, bound: float) -> Case | Missing:
    if isinstance(one, str):
        return Missing(name, one)
    return case(name, one, sign * (one.value - bound), unit=unit, signed=False, decimals=2)


KINDS: dict[str, Callable[[NumberSource, Options], Cases]] = {
    "better": better,
    "not_worse": not_worse,
    "equivalent": equivalent,
    "differ": differ,
    "interaction": interaction,
    "spread": spread,
    "at_least": at_least,
    "at_most": at_most,
}
