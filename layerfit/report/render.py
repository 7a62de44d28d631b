"""A table as text: console, Markdown, LaTeX. The same data gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any

from layerfit.report.escape import escape_latex, escaped, escaped_line, first_cell, on_terminal
from layerfit.report.matrix import Matrix
from layerfit.report.table import Costs, Entry, TableData, TableGate
from layerfit.report.units import UNITS, number

NONE = "-"
MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Text:
    """One printed cell."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """Heads and lines, the row label first; scores: number of score columns after it."""

    heads: tuple[str, ...]
    lines: tuple[tuple[Text, ...], ...]
    scores: int


def cell(entry: Entry, *, unit: str, seeds: int) -> Text:
    """Return `63.1 ± 0.9`, with `(3/5)` where seeds are missing; a dash without a number."""
    if entry.mean is None:
        return Text(NONE)
    text = number(entry.mean, unit)
    if entry.spread is not None:
        text += f" ± {number(entry.spread, unit)}"
    if entry.holes:
        text += f" ({len(entry.values)}/{seeds})"
    return Text(text, entry.bold)


def mark(entry: Entry) -> str:
    """Return the significance mark of an entry against the best of its group: `***` (p < 0.001), `**`, `*`, `n.s.`."""
    if entry.best:
        return "best"
    if entry.adjusted_p is None:
        return NONE
    return next((stars for limit, stars in MARKS if entry.adjusted_p < limit), "n.s.")


def count(value: float | None) -> str:
    """Return a number with three significant digits: 841, 12.3k, 6.74M, 7.25B."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            # `#` keeps trailing zeros, as in 1.00M; it also leaves a point after 123.
            return f"{value / size:#.3g}".rstrip(".") + unit
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def grid(data: TableData) -> Grid:
    """Lay a table out: label, a column for every score (and beside it the published one), marks, costs.

    A group of rows has a line of its own above it.
    """
    heads = [""]
    with_published = [any(row.entries[i].published for row in data.rows) for i in range(len(data.columns))]
    for shown, published in zip(data.columns, with_published, strict=True):
        symbol = UNITS[shown.column.unit].symbol
        label = shown.column.label + (f" {symbol}" if symbol not in ("", "%") else "") + shown.mark
        heads += [label] + ([f"{shown.column.label}, published"] if published else [])
    scores = len(heads) - 1
    tested = [i for i, shown in enumerate(data.columns) if shown.comparisons]
    heads += ["Worse than best"] if tested else []
    largest = max((r.costs.memory for r in data.rows if r.costs.memory is not None), default=0.0)
    unit, name = (GIB, "GiB") if largest >= GIB or not largest else (MIB, "MiB")
    heads += [f"Memory {name}", "Tok/s", "Trained", "Tokens", "Seconds"] if data.with_costs else []
    lines: list[tuple[Text, ...]] = []
    group = ""
    for row in data.rows:
        if row.group and row.group != group:
            lines.append((Text(row.group, bold=True), *(Text("") for _ in heads[1:])))
        group = row.group
        line = [Text(row.short or row.label)]
        for i, entry in enumerate(row.entries):
            line.append(cell(entry, unit=data.columns[i].column.unit, seeds=len(entry.values) + len(entry.holes)))
            if with_published[i]:
                line.append(_published(entry))
        line += [Text(" ".join(mark(row.entries[i]) for i in tested))] if tested else []
        line += [Text(text) for text in _costs(row.costs, unit)] if data.with_costs else []
        lines.append(tuple(line))
    return Grid(tuple(heads), tuple(lines), scores)


def _published(entry: Entry) -> Text:
    return Text(NONE) if entry.published is None else Text(entry.published.text, entry.published.bold)


def _costs(costs: Costs, unit: int) -> list[str]:
    memory = NONE if costs.memory is None else f"{costs.memory / unit:.1f}"
    seconds = NONE if costs.seconds is None else f"{costs.seconds:,.0f}"
    return [memory, count(costs.tokens_per_s), count(costs.trained), count(costs.tokens), seconds]


def matrix_grid(matrix: Matrix) -> Grid:
    """Lay a matrix out, published numbers on separate lines under ours."""

    def line(label: str, values: tuple[float | None, ...]) -> tuple[Text, ...]:
        return (Text(label), *(Text(NONE if v is None else f"{v:.{matrix.decimals}f}") for v in values))

    lines = []
    for index, label in enumerate(matrix.rows):
        lines.append(line(label, matrix.values[index]))
        if matrix.published is not None and any(v is not None for v in matrix.published[index]):
            lines.append(line(f"{label}, published", matrix.published[index]))
    return Grid((matrix.row_name, *matrix.columns), tuple(lines), len(matrix.columns))


def title(data: TableData) -> str:
    """Return the title; a draft's is marked DRAFT."""
    return f"DRAFT: {data.title}" if data.draft else data.title


def under(data: TableData) -> list[str]:
    """Return every line under the table: problems of a draft, gates, notes."""
    out = [f"DRAFT, not to be quoted: {problem}" for problem in data.problems] if data.draft else []
    out += [gate_line(gate) for gate in data.gates]
    if any(gate.passed is not True for gate in data.gates):
        out.append("A gate did not pass: this table cannot rank methods.")
    return out + list(data.footnotes)


def gate_line(gate: TableGate) -> str:
    """Return a gate with its verdict."""
    verdict = {True: "passed", False: "FAILED", None: "not decided"}[gate.passed]
    return f"Gate {gate.name}: {verdict}. {gate.detail}"


def _markdown_grid(laid: Grid) -> list[str]:
    out = [
        "| " + " | ".join(escaped(head) for head in laid.heads) + " |",
        "|" + "|".join([":--"] + ["--:"] * (len(laid.heads) - 1)) + "|",
    ]
    lines = [[f"**{escaped(t.text)}**" if t.bold else escaped(t.text) for t in line] for line in laid.lines]
    return out + ["| " + " | ".join(line) + " |" for line in lines]


def markdown(data: TableData) -> str:
    """Return a GitHub table with its title and notes, then its matrices."""
    out = [f"# {escaped(title(data))}", ""]
    out += [escaped_line(data.note), ""] if data.note else []
    out += _markdown_grid(grid(data)) if data.columns else []
    for matrix in data.matrices:
        out += ["", f"## {escaped(matrix.title)}", ""]
        out += [escaped_line(f"{matrix.value_name}, {matrix.row_name} x {matrix.column_name}."), ""]
        out += [*_markdown_grid(matrix_grid(matrix)), ""] if matrix.printed else ["Drawn in the figure only.", ""]
        out += [f"- {escaped_line(text)}" for text in matrix.notes]
    out += ["", *(f"- {escaped_line(text)}" for text in under(data))]
    return "\n".join(out) + "\n"


def _tabular(laid: Grid) -> list[str]:
    body = []
    for line in laid.lines:
        plain = (escape_latex(t.text) if number else first_cell(t.text) for number, t in enumerate(line))
        texts = (rf"\textbf{{{text}}}" if t.bold else text for t, text in zip(line, plain, strict=True))
        body.append(" & ".join(texts) + r" \\")
    return [
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(laid.heads) - 1)}}}",
        r"\toprule",
        " & ".join([first_cell(laid.heads[0]), *map(escape_latex, laid.heads[1:])]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
    ]


def latex(data: TableData) -> str:
    """Return a table environment for booktabs: title and note in the caption, the rest below the rule."""
    caption = " ".join(escape_latex(text) for text in (f"{title(data)}.", data.note) if text)
    out = [
        "% Needs booktabs and graphicx.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{data.name}}}",
        *(_tabular(grid(data)) if data.columns else []),
    ]
    for matrix in data.matrices:
        if matrix.printed:
            out += [rf"\par\medskip {escape_latex(matrix.title)}\par", *_tabular(matrix_grid(matrix))]
    notes = [*under(data), *(text for matrix in data.matrices for text in matrix.notes)]
    out += [
        r"\par\smallskip\footnotesize\raggedright",
        *(escape_latex(text) for text in notes),
        r"\end{table}",
    ]
    return "\n".join(out) + "\n"


def console(data: TableData, file: IO[str] | None = None, width: int = 100) -> None:
    """Print a table within `width` characters."""
    from rich.console import Console

    out = Console(file=file, width=width, highlight=False)
    out.print(on_terminal(title(data)), style="bold red" if data.draft else "bold")
    if data.note:
        out.print(on_terminal(data.note), style="italic")
    grids = [("", grid(data))] if data.columns else []
    grids += [(matrix.title, matrix_grid(matrix)) for matrix in data.matrices if matrix.printed]
    for heading, laid in grids:
        if heading:
            out.print(on_terminal(heading), style="bold")
        for part in _parts(laid, width):
            out.print(_rich(laid, part))
    for text in [*under(data), *(text for matrix in data.matrices for text in matrix.notes)]:
        red = data.draft and text.startswith("DRAFT")
        out.print(on_terminal(text.replace("Bold:", "†:", 1)), style="red" if red else "dim")


def _rich(laid: Grid, part: list[int]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index in part:
        table.add_column(on_terminal(laid.heads[index]), justify="right" if index else "left", no_wrap=True)
    for line in laid.lines:
        # A log has no bold: a dagger replaces it.
        shown = [(line[i], " " if 0 < i <= laid.scores else "", "†" if i else "") for i in part]
        texts = [on_terminal(text.text) for text, _, _ in shown]
        cells = (f"[bold]{x}[/]{star}" if t.bold else x + pad for x, (t, pad, star) in zip(texts, shown, strict=True))
        table.add_row(*cells)
    return table


def _parts(laid: Grid, width: int) -> list[list[int]]:
    """Split the columns into parts that fit the width, with the row label first in every part."""
    sizes = [2 + max(len(head), *(len(line[i].text) + 1 for line in laid.lines)) for i, head in enumerate(laid.heads)]
    parts, room = [[0]], width - sizes[0]
    for index, size in list(enumerate(sizes))[1:]:
        # Split between scores and costs if one table cannot hold both.
        if size > room or (index == laid.scores + 1 and sum(sizes[index:]) > room):
            parts.append([0])
            room = width - sizes[0]
        parts[-1].append(index)
        room -= size
    return parts
