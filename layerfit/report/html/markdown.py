"""The Markdown that layerfit writes, as HTML: headings, paragraphs, bullets, tables, bold, italics, links, anchors."""

from __future__ import annotations

import re
from collections.abc import Callable

from layerfit.report.html.tags import Markup, join, listing, tag

_INLINE = re.compile(
    r"\\(?P<plain>.)|\*\*(?P<b>.+?)\*\*|\*(?P<em>.+?)\*|\[(?P<text>(?:\\.|[^\]]|\](?!\())*)\]\(#(?P<to>[\w-]+)\)"
)
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')


def html(text: str, prefix: str) -> Markup:
    """Return Markdown as HTML. prefix: what its anchors and the links to them begin with on this page."""
    out: list[Markup] = []
    anchor: str | None = None
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        while lines and (found := _ANCHOR.fullmatch(lines[0].strip())):
            anchor = prefix + found[1]
            lines = lines[1:]
        while lines and (heading := re.match(r"(#+) (.*)", lines[0])):
            out.append(tag(f"h{min(6, len(heading[1]) + 1)}", inline(heading[2], prefix), id=anchor))
            anchor, lines = None, lines[1:]
        if lines:
            out.append(_block(lines, lambda words: inline(words, prefix)))
    return join(out)


def _block(lines: list[str], words: Callable[[str], Markup]) -> Markup:
    if all(line.startswith("|") for line in lines):
        rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines]
        head, *body = [[words(cell.strip()) for cell in row] for row in rows if not set("".join(row)) <= set(" :-")]
        made = [tag("tr", [tag("td", cell) for cell in row]) for row in body]
        heads = tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in head]))
        return tag("div", tag("table", heads, tag("tbody", made)), class_="scroll")
    if all(line.startswith("- ") for line in lines):
        return listing(words(line[2:]) for line in lines)
    return tag("p", words(" ".join(lines)))


def inline(text: str, prefix: str) -> Markup:
    """Return one line of text; a backslash takes the next character as it is."""
    out: list[str | Markup] = []
    at = 0
    for found in _INLINE.finditer(text):
        out.append(text[at : found.start()])
        at = found.end()
        if found["plain"] is not None:
            out.append(found["plain"])
        elif found["to"] is not None:
            out.append(tag("a", inline(found["text"], prefix), href=f"#{prefix}{found['to']}"))
        else:
            name = "b" if found["b"] is not None else "em"
            out.append(tag(name, inline(found[name], prefix)))
    return join(out, text[at:])
