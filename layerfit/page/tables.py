"""One table as HTML: our numbers beside the published ones with the difference; every number links to its runs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator

from layerfit.page import matrices
from layerfit.page.gather import DRAFT, NOT_RUN, Table, named
from layerfit.page.tags import Markup, folded, join, listing, tag
from layerfit.report import checks, render, stats
from layerfit.report.cells import Cell
from layerfit.report.spec import PROFILE, Row, TableSpec
from layerfit.report.table import ColumnData, Entry, RowData, TableData
from layerfit.report.units import UNITS, number

MINUS = "\N{MINUS SIGN}"


def section(table: Table) -> Markup:
    """Return a table's part of the page."""
    where = f"slide: {table.spec.slide}" if table.spec.slide else None
    words = [text for text in (table.detail, where) if text]
    name = tag("p", tag("code", table.name), " ", badge(table.state), " ", "; ".join(words), class_="meta")
    body = _body(table)
    if table.state == NOT_RUN:
        body = folded("Its rows, and what was published", body)
    head = tag("header", tag("h2", table.data.title), name)
    return tag("section", head, body, class_=f"table {table.state.replace(' ', '-')}", id=f"table/{table.name}")


def badge(state: str) -> Markup:
    """Return a state as a small coloured label; the colour carries no information of its own."""
    return tag("span", state, class_=f"badge {state.replace(' ', '-')}")


def _body(table: Table) -> Markup:
    data = table.data
    return join(
        tag("p", data.note, class_="note") if data.note else None,
        tag("p", "Draft, not to be quoted: ", data.problems[0], class_="warning") if table.state == DRAFT else None,
        tag("div", grid(table), class_="scroll", tabindex="0", role="region", aria_label=data.title)
        if data.columns
        else None,
        _legend(data),
        [matrices.section(matrix) for matrix in data.matrices],
        _gates(data),
        [_figure(data, name, png) for name, png in table.figures],
        _notes(data),
    )


def grid(table: Table) -> Markup:
    """Return the table itself."""
    data = table.data
    rows = {row.label: row for row in table.spec.rows}
    laid = render.grid(data)
    costs = len(laid.heads) - (5 if data.with_costs else 0)
    printed = (line for line in laid.lines if any(text.text for text in line[1:]))  # a group's line holds its name only
    published = [any(row.entries[i].published for row in data.rows) for i in range(len(data.columns))]
    compared = not data.name.endswith(PROFILE)
    lines, group = [], ""
    for place, (row, line) in enumerate(zip(data.rows, printed, strict=True)):
        runs = [cell for cell in table.cells if cell.row == row.label]
        made = [tag("th", row.short or row.label, scope="row")]
        for i, (shown, entry) in enumerate(zip(data.columns, row.entries, strict=True)):
            made.append(_ours(f"{data.name}-{place}-{i}", row, shown, entry, runs))
            made += _beside(shown, entry, compared=compared) if published[i] else []
        made += [tag("td", text.text, class_="cost") for text in line[costs:]]
        if row.group and row.group != group:
            lines.append(tag("tr", tag("th", row.group, colspan=len(made), scope="rowgroup"), class_="group"))
        group = row.group
        lines.append(tag("tr", made, **_facets(table.spec, rows[row.label], runs)))
    head = _heads(data, published, laid.heads[costs:], compared=compared)
    return tag("table", head, tag("tbody", lines), class_="scores")


def _facets(spec: TableSpec, row: Row, runs: list[Cell]) -> dict[str, str | int | bool | None]:
    """Return the filter values of a row; '' for a group in which a row that is published only makes no choice."""
    models = {cell.run.model.name for cell in runs} or {named(spec, row, "model") or ""}
    methods = {cell.run.method_name() for cell in runs} or {named(spec, row, "method") or ""}
    return {"data_model": " ".join(sorted(models)), "data_method": " ".join(sorted(methods))}


def _heads(data: TableData, published: list[bool], costs: tuple[str, ...], *, compared: bool) -> Markup:
    deep = 2 if any(published) else None
    below = ("ours", "published", "difference") if compared else ("ours", "published")
    first = [tag("th", rowspan=deep)]
    second = []
    for shown, beside in zip(data.columns, published, strict=True):
        symbol = UNITS[shown.column.unit].symbol
        label = shown.column.label + (f" {symbol}" if symbol not in ("", "%") else "") + shown.mark
        arrow = None if shown.higher_is_better else tag("span", " \N{DOWNWARDS ARROW}", title="lower is better")
        if beside:
            first.append(tag("th", label, arrow, colspan=len(below), scope="colgroup", class_="pair"))
            second += [tag("th", text, scope="col") for text in below]
        else:
            first.append(tag("th", label, arrow, scope="col", rowspan=deep))
    first += [tag("th", head, scope="col", rowspan=deep, class_="cost") for head in costs]
    return tag("thead", tag("tr", first), tag("tr", second) if second else None)


def _ours(name: str, row: RowData, shown: ColumnData, entry: Entry, runs: list[Cell]) -> Markup:
    """Return our number as a button that opens its runs and test, or a dash that opens the reason."""
    text = render.cell(entry, unit=shown.column.unit, seeds=len(entry.values) + len(entry.holes))
    if entry.mean is None:
        reason = "; ".join(reasons(row, entry))
        return tag(
            "td", tag("span", render.NONE, title=reason, tabindex="0", aria_label=f"none: {reason}"), class_="hole"
        )
    stars = star(entry)
    printed = tag("b" if text.bold else "span", text.text)
    # Room for stars in every line of a column, so that its numbers align.
    button = tag(
        "button", printed, tag("sup", stars), type="button", popovertarget=f"cell-{name}", title="its runs and its test"
    )
    card = tag("div", _card(row, shown, entry, runs), id=f"cell-{name}", popover="auto", class_="card")
    return tag("td", button, card, class_="best" if entry.best else None)


def star(entry: Entry) -> str:
    """Return the stars of an entry that was shown worse than the best of its group, else ''."""
    mark = render.mark(entry)
    return mark if mark.startswith("*") else ""


def _card(row: RowData, shown: ColumnData, entry: Entry, runs: list[Cell]) -> Iterator[Markup]:
    unit = shown.column.unit
    yield tag("p", tag("strong", row.label), f", {shown.column.label}")
    links = []
    for seed, value in entry.values:
        text = ("one run: " if seed is None else f"seed {seed}: ") + number(value, unit)
        run = next((cell.run_id for cell in runs if cell.seed == seed), None)
        links.append(tag("a", text, href=f"#run/{run}") if run else text)
    yield listing(links, class_="seeds")
    if entry.interval is not None:
        low, high = (number(bound, unit) for bound in entry.interval)
        yield tag("p", f"95% interval over seeds and items: {low} to {high}")
    result = entry.against_best
    if isinstance(result, stats.Comparison) and entry.adjusted_p is not None:
        gap = number(abs(result.difference), unit)
        verdict = "shown worse" if star(entry) else "not shown worse"
        yield tag("p", f"{gap} from the best, p = {entry.adjusted_p:.2g} (Holm): {verdict}")
    elif isinstance(result, stats.NotTestable):
        yield tag("p", f"Not tested against the best: {result.reason}")
    elif entry.best:
        yield tag("p", "The best mean of its group" if row.group else "The column's best mean")
    if entry.published is not None:
        yield tag("p", f"Published: {entry.published.source}")
    if entry.holes:
        yield listing(reasons(row, entry), class_="holes")


def reasons(row: RowData, entry: Entry) -> list[str]:
    """Return why an entry has no number, or lacks seeds."""
    return list(entry.holes) or [row.hole or "not run"]


def _beside(shown: ColumnData, entry: Entry, *, compared: bool) -> list[Markup]:
    """Return the published number, as printed, and ours minus it in the column's unit.

    compared: False in the embedded world, where the difference means nothing: its models and tasks are others.
    """
    out = [tag("td", render.NONE, class_="published")]
    gap = render.NONE
    if entry.published is not None:
        text = tag("b", entry.published.text) if entry.published.bold else entry.published.text
        out = [tag("td", text, class_="published", title=entry.published.source)]
        if entry.mean is not None:
            unit = UNITS[shown.column.unit]
            gap = signed(unit.factor * entry.mean - entry.published.value, unit.decimals)
    return [*out, tag("td", gap, class_="difference")] if compared else out


def signed(value: float, decimals: int) -> str:
    """Return a difference with its sign; zero has none."""
    text = f"{abs(value):.{decimals}f}"
    return text if not float(text) else ("+" if value > 0 else MINUS) + text


def _legend(data: TableData) -> Markup | None:
    entries = [entry for row in data.rows for entry in row.entries]
    words = []
    if any(entry.bold for entry in entries):
        group = "its group's" if any(row.group for row in data.rows) else "the column's"
        words.append(f"Bold: not shown worse than {group} best.")
    if any(star(entry) for entry in entries):
        limits = ", ".join(f"{stars} p < {limit}" for limit, stars in reversed(render.MARKS))
        words.append(f"Shown worse than it: {limits} (paired test, Holm).")
    if any(entry.values for entry in entries):
        words.append("Click a number for its runs.")
    return join(tag("p", " ".join(words), class_="legend") if words else None, _holes(data))


def _holes(data: TableData) -> Markup | None:
    """Return why there are dashes: each reason once, with its runs."""
    found: dict[str, dict[str, None]] = {}
    for row in data.rows:
        for entry in row.entries:
            for reason in reasons(row, entry) if entry.mean is None else ():
                name, _, why = reason.partition(": ")  # `<row>, seed 3: no record`
                mine = name == row.label or name.startswith(f"{row.label}, ")
                found.setdefault(why if mine else reason, {})[name if mine else row.label] = None
    lines = [f"{why}: {checks.listed(names)}" for why, names in found.items()]
    return folded(f"Why there is a dash ({len(lines)})", listing(lines), class_="holes") if lines else None


def _gates(data: TableData) -> Markup | None:
    if not data.gates:
        return None
    bad = [gate for gate in data.gates if gate.passed is not True]
    verdict = "A gate did not pass: this table cannot rank methods" if bad else f"All {len(data.gates)} gates passed"
    lines = [render.gate_line(gate) for gate in data.gates]
    return folded(verdict, listing(lines), class_="gates failed" if bad else "gates", open=bool(bad))


def _figure(data: TableData, name: str, png: bytes) -> Markup:
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    image = tag("img", src=source, alt=f"Figure of {data.title}: the numbers of the table above", decoding="async")
    return tag("figure", image, tag("figcaption", name))


def _notes(data: TableData) -> Markup | None:
    notes = [*(f"Draft: {problem}" for problem in data.problems), *data.footnotes]
    return (
        folded(f"How these numbers were made ({len(notes)} notes)", listing(notes), class_="notes") if notes else None
    )
