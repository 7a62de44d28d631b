"""A table as text: console, Markdown, LaTeX. The same data gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from layerfit.report.table import Costs, Entry, Gate, TableData

NONE = "-"
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Text:
    """One printed cell."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """Heads and lines, the row label first; scores: how many columns after it are scores."""

    heads: tuple[str, ...]
    lines: tuple[tuple[Text, ...], ...]
    scores: int


def score(value: float, *, percent: bool) -> str:
    """Return a score as printed: a share in percent with one decimal, anything else with two."""
    return f"{100 * value:.1f}" if percent else f"{value:.2f}"


def cell(entry: Entry, *, percent: bool, seeds: int) -> Text:
    """Return `63.1 ± 0.9`; `(3/5)` where seeds are missing; a dash where there is nothing."""
    if entry.mean is None:
        return Text(NONE)
    text = score(entry.mean, percent=percent)
    if entry.spread is not None:
        text += f" ± {score(entry.spread, percent=percent)}"
    if entry.holes:
        text += f" ({len(entry.values)}/{seeds})"
    return Text(text, entry.bold)


def count(value: float | None) -> str:
    """Return a number in three figures: 841, 12.3k, 6.74M, 7.25B."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            # `#` keeps zeros, so that 1.00M is known to three figures; it also leaves a point after 123.
            return f"{value / size:#.3g}".rstrip(".") + unit
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def grid(data: TableData) -> Grid:
    """Lay a table out: label, a column for every score (and beside it the published one), costs."""
    heads, percent = [""], [shown.column.percent for shown in data.columns]
    with_published = [any(row.entries[i].published for row in data.rows) for i in range(len(data.columns))]
    for shown, published in zip(data.columns, with_published, strict=True):
        heads += [shown.column.label] + ([f"{shown.column.label}, published"] if published else [])
    costs = [row.costs for row in data.rows]
    largest = max((c.memory for c in costs if c.memory is not None), default=0.0)
    unit, name = (GIB, "GiB") if largest >= GIB or not largest else (MIB, "MiB")
    cost_heads = [f"Memory {name}", "Tok/s", "Trained", "Tokens", "Seconds"]
    lines = []
    for row in data.rows:
        line = [Text(row.label)]
        for i, entry in enumerate(row.entries):
            line.append(cell(entry, percent=percent[i], seeds=len(entry.values) + len(entry.holes)))
            if with_published[i]:
                line.append(_published(entry))
        line += [Text(text) for text in _costs(row.costs, unit)]
        lines.append(tuple(line))
    return Grid((*heads, *cost_heads), tuple(lines), len(heads) - 1)


def _published(entry: Entry) -> Text:
    if entry.published is None:
        return Text(NONE)
    spread = "" if entry.published.spread is None else f" ± {entry.published.spread:g}"
    return Text(f"{entry.published.value:g}{spread}")


def _costs(costs: Costs, unit: int) -> list[str]:
    memory = NONE if costs.memory is None else f"{costs.memory / unit:.1f}"
    seconds = NONE if costs.seconds is None else f"{costs.seconds:,.0f}"
    return [memory, count(costs.tokens_per_s), count(costs.trained), count(costs.tokens), seconds]


def title(data: TableData) -> str:
    """Return the title; a draft says so on its face."""
    return f"DRAFT: {data.title}" if data.draft else data.title


def under(data: TableData) -> list[str]:
    """Return every line under the table: problems of a draft, gates, notes."""
    out = [f"DRAFT, not to be quoted: {problem}" for problem in data.problems] if data.draft else []
    out += [gate_line(gate) for gate in data.gates]
    if any(gate.passed is not True for gate in data.gates):
        out.append("A gate did not pass: this table cannot rank methods.")
    return out + list(data.footnotes)


def gate_line(gate: Gate) -> str:
    """Return a gate with its verdict."""
    verdict = {True: "passed", False: "FAILED", None: "not decided"}[gate.passed]
    return f"Gate {gate.name}: {verdict}. {gate.detail}"


def markdown(data: TableData) -> str:
    """Return a GitHub table with its title and notes."""

    def escaped(text: str) -> str:
        for mark in "\\|*_<`":
            text = text.replace(mark, "\\" + mark)
        return text

    laid = grid(data)
    out = [f"# {escaped(title(data))}", ""]
    out += [escaped(data.note), ""] if data.note else []
    out += [
        "| " + " | ".join(escaped(head) for head in laid.heads) + " |",
        "|" + "|".join([":--"] + ["--:"] * (len(laid.heads) - 1)) + "|",
    ]
    for line in laid.lines:
        out.append("| " + " | ".join(f"**{escaped(t.text)}**" if t.bold else escaped(t.text) for t in line) + " |")
    out += ["", *(f"- {escaped(text)}" for text in under(data))]
    return "\n".join(out) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(mark, mark) for mark in text)


def latex(data: TableData) -> str:
    """Return a table environment for booktabs: title and note in the caption, the rest below the rule."""
    laid = grid(data)
    caption = " ".join(escape_latex(text) for text in (f"{title(data)}.", data.note) if text)
    label = f"tab:{data.name}"
    body = []
    for line in laid.lines:
        texts = (rf"\textbf{{{escape_latex(t.text)}}}" if t.bold else escape_latex(t.text) for t in line)
        body.append(" & ".join(texts) + r" \\")
    out = [
        "% Needs booktabs and graphicx.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(laid.heads) - 1)}}}",
        r"\toprule",
        " & ".join(escape_latex(head) for head in laid.heads) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip\footnotesize\raggedright",
        *(escape_latex(text) for text in under(data)),
        r"\end{table}",
    ]
    return "\n".join(out) + "\n"


def console(data: TableData, file: IO[str] | None = None, width: int = 100) -> None:
    """Print a table within `width` characters."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    laid = grid(data)
    out = Console(file=file, width=width, highlight=False)
    style = "bold red" if data.draft else "bold"
    out.print(escape(title(data)), style=style)
    if data.note:
        out.print(escape(data.note), style="italic")
    for part in _parts(laid, width):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for index in part:
            table.add_column(escape(laid.heads[index]), justify="right" if index else "left", no_wrap=True)
        for line in laid.lines:
            # The terminal of a log knows no bold: a star says the same.
            shown = [(line[i], " " if 0 < i <= laid.scores else "") for i in part]
            table.add_row(*(f"[bold]{escape(t.text)}[/]*" if t.bold else escape(t.text) + pad for t, pad in shown))
        out.print(table)
    for text in under(data):
        red = data.draft and text.startswith("DRAFT")
        out.print(escape(text.replace("Bold:", "*:", 1)), style="red" if red else "dim")


def _parts(laid: Grid, width: int) -> list[list[int]]:
    """Return which columns are printed together: as many as fit, the row label first in every part."""
    sizes = [2 + max(len(head), *(len(line[i].text) + 1 for line in laid.lines)) for i, head in enumerate(laid.heads)]
    parts, room = [[0]], width - sizes[0]
    for index, size in list(enumerate(sizes))[1:]:
        # Scores and costs part where one table cannot hold both.
        if size > room or (index == laid.scores + 1 and sum(sizes[index:]) > room):
            parts.append([0])
            room = width - sizes[0]
        parts[-1].append(index)
        room -= size
    return parts
