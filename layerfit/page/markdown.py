"""The Markdown that layerfit writes, as HTML: headings, paragraphs, bullets, tables, bold, code, links, anchors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from layerfit.page.tags import Markup, join, listing, tag

_INLINE = re.compile(
    r"\\(?P<plain>.)|`(?P<code>[^`]+)`|\*\*(?P<b>.+?)\*\*|\*(?P<em>.+?)\*"
    r"|\[(?P<text>(?:\\.|[^\]]|\](?!\())*)\]\(#(?P<to>[\w-]+)\)"
)
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_WORD = re.compile(r"([a-z]\w*(?:\.nano)?)\b")


@dataclass(frozen=True)
class Writer:
    """prefix: what anchors of the text begin with on this page. tables: names that become links to their tables."""

    prefix: str
    tables: frozenset[str] = frozenset()

    def html(self, text: str) -> Markup:
        """Return a text of several blocks."""
        return join(self._blocks(text))

    def _blocks(self, text: str) -> Iterator[Markup]:
        anchor: str | None = None
        for block in re.split(r"\n\s*\n", text.strip()):
            lines = block.splitlines()
            while lines and (found := _ANCHOR.fullmatch(lines[0].strip())):
                anchor, lines = self.prefix + found[1], lines[1:]
            while lines and (heading := re.match(r"(#+) (.*)", lines[0])):
                yield tag(f"h{min(6, len(heading[1]) + 1)}", self.inline(heading[2]), id=anchor)
                anchor, lines = None, lines[1:]
            if lines:
                yield self._block(lines)

    def _block(self, lines: list[str]) -> Markup:
        if all(line.startswith("|") for line in lines):
            rows = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines]
            made = [[self.inline(cell.strip()) for cell in row] for row in rows if not set("".join(row)) <= set(" :-")]
            heads = tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in made[0]]))
            body = tag("tbody", [tag("tr", [tag("td", cell) for cell in row]) for row in made[1:]])
            return tag("div", tag("table", heads, body), class_="scroll")
        if all(line.startswith("- ") for line in lines):
            return listing(self.inline(line[2:]) for line in lines)
        return tag("p", self.inline(" ".join(lines)))

    def inline(self, text: str) -> Markup:
        """Return one line of text; a backslash takes the next character as it is."""
        # Escaped characters are put back before words are looked for: the names of tables have underscores.
        at, pieces = 0, [""]
        out: list[Markup] = []

        def flush() -> None:
            out.extend(self._words(pieces.pop()))
            pieces.append("")

        for found in _INLINE.finditer(text):
            pieces[0] += text[at : found.start()] + (found["plain"] or "")
            at = found.end()
            if found["plain"] is None:
                flush()
                out.append(self._element(found))
        pieces[0] += text[at:]
        flush()
        return join(out)

    def _element(self, found: re.Match[str]) -> Markup:
        if found["code"] is not None:
            return tag("code", found["code"])
        if found["to"] is not None:
            inner = Writer(self.prefix).inline(found["text"])  # no link inside a link
            return tag("a", inner, href=f"#{self.prefix}{found['to']}")
        name = "b" if found["b"] is not None else "em"
        return tag(name, self.inline(found[name]))

    def _words(self, text: str) -> Iterable[Markup]:
        for piece in _WORD.split(text):
            yield tag("a", piece, href=f"#table/{piece}") if piece in self.tables else join(piece)
