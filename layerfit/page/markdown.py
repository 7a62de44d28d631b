"""Markdown written by layerfit as HTML for the page: no raw HTML, no external links.

`markdown-it-py` parses and renders; our changes are made to its tokens in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from layerfit.page.tags import Markup

_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_LINK = re.compile(r"#(?P<anchor>[\w-]+)|tables/(?P<table>[\w.-]+)\.md")
_WORD = re.compile(r"([a-z]\w*(?:\.nano)?)\b")


@dataclass(frozen=True)
class Writer:
    """prefix: of the text's anchors on this page. tables: names that become links to their tables."""

    prefix: str
    tables: frozenset[str] = frozenset()

    def html(self, text: str) -> Markup:
        """Return Markdown of several blocks as HTML."""
        # Raw HTML is escaped as text. No images: they would be loaded from elsewhere, and the page is one file.
        parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
        parser.validateLink = lambda url: self._target(url) is not None  # type: ignore[method-assign]
        tokens = list(self._blocks(parser.parse(text)))
        return Markup(parser.renderer.render(tokens, parser.options, {}))

    def _blocks(self, tokens: list[Token]) -> Iterator[Token]:
        """Make an anchor's paragraph the id of the next heading, lower headings by one level, let tables scroll."""
        anchor: str | None = None
        position = 0
        while position < len(tokens):
            token = tokens[position]
            if token.type == "paragraph_open" and (found := _ANCHOR.fullmatch(tokens[position + 1].content)):
                anchor = self.prefix + found[1]
                position += 3  # the paragraph's opening, text and closing
                continue
            if token.type in ("heading_open", "heading_close"):  # h1 is the page's title
                token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
            if token.type == "heading_open" and anchor is not None:
                token.attrs, anchor = {"id": anchor}, None
            elif token.type in ("th_open", "td_open"):  # the style sheet aligns cells
                token.attrs = {"scope": "col"} if token.type == "th_open" else {}
            elif token.type == "inline":
                token.children = list(self._inline(token.children or []))
            if token.type == "table_open":
                yield Token("div_open", "div", 1, attrs={"class": "scroll"}, block=True)
            yield token
            if token.type == "table_close":
                yield Token("div_close", "div", -1, block=True)
            position += 1

    def _target(self, url: str) -> str | None:
        """Return the page's anchor for a URL of the text, None if the page has none: the link then stays plain text."""
        found = _LINK.fullmatch(url)
        if found is None:
            return None
        if found["anchor"]:
            return f"#{self.prefix}{found['anchor']}"
        return f"#table/{found['table']}" if found["table"] in self.tables else None

    def _inline(self, tokens: list[Token]) -> Iterator[Token]:
        """Point links to the page's anchors, and link the names of tables unless they are inside a link already."""
        inside = False
        for token in tokens:
            if token.type == "link_open":
                token.attrs = {"href": self._target(str(token.attrs["href"])) or ""}
            inside = token.type == "link_open" or (inside and token.type != "link_close")
            if token.type == "text" and not inside:
                yield from self._words(token.content)
            else:
                yield token

    def _words(self, text: str) -> Iterator[Token]:
        for piece in _WORD.split(text):
            word = Token("text", "", 0, content=piece)
            if piece in self.tables:
                yield Token("link_open", "a", 1, attrs={"href": f"#table/{piece}"})
                yield word
                yield Token("link_close", "a", -1)
            else:
                yield word
