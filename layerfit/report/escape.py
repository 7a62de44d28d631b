"""Text in a table's forms: one function for each. Labels, names and notes may hold anything; every form shows them so.

HTML has its own in `layerfit.page.tags`.
"""

from __future__ import annotations

import re

from layerfit.files.shown import one_line

_LINK_END = re.compile(r"\](?=[(\[:])")
_BLOCK = re.compile(r"^(?=[#>]|[-+](?:\s|$)|[-=~]{2,})|^(\d{1,9})(?=[.)](?:\s|$))")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}
_FORMULA = re.compile(r"[=@\t]|[+-].*[(|!]")


def escaped(text: str) -> str:
    """Escape text for Markdown: in a cell, a heading, or the middle of a line."""
    text = one_line(text)
    for char in "\\|*_<`":
        text = text.replace(char, "\\" + char)
    return _LINK_END.sub(r"\\]", text).replace("~~", r"\~\~")


def escaped_line(text: str) -> str:
    """Escape text for Markdown that begins a line or an item of a list, where it could begin a block."""
    return _BLOCK.sub(lambda found: f"{found[1]}\\" if found[1] else "\\", escaped(text).lstrip())


def escape_latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(mark, mark) for mark in one_line(text))


def first_cell(text: str) -> str:
    r"""Escape text for LaTeX that begins a line of a table: `\\` and rules would take a `[` or `*` for their own."""
    shown = escape_latex(text).lstrip()
    return f"{{}}{shown}" if shown.startswith(("[", "*")) else shown


def on_terminal(text: str) -> str:
    """Escape text for `rich`'s markup, without characters that a terminal acts on."""
    from rich.markup import escape

    return escape(one_line(text))


def in_csv(text: str) -> str:
    """Return text for a cell of a CSV file: one line, and no formula in a spreadsheet."""
    shown = one_line(text)
    return f"'{shown}" if _FORMULA.match(shown) else shown
