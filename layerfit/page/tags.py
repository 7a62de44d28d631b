"""HTML from small functions. Text is escaped wherever it enters; only `Markup` passes as it stands."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from layerfit.files.shown import one_line

VOID = frozenset({"br", "img", "input", "meta"})
"""Elements that have no end tag."""
WITHIN = ("#", "data:image/png;base64,")
"""Beginnings of every address on the page: it is one file. Another (`javascript:`) is left out, its text stays."""


class Markup(str):
    """HTML whose text is already escaped: made here, or by `page.markdown`."""

    __slots__ = ()


Child = str | Iterable["Child"] | None


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """Return an element. `class_` is class, `data_x` is data-x; an attribute that is None or False is left out."""
    shown = [_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False]
    start = f"<{name}{''.join(shown)}>"
    return Markup(start) if name in VOID else Markup(f"{start}{join(*children)}</{name}>")


def _attribute(key: str, value: str | int | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if name in ("href", "src") and not str(value).startswith(WITHIN):
        return ""
    return f" {name}" if value is True else f' {name}="{escape(one_line(str(value)), quote=True)}"'


def join(*children: Child) -> Markup:
    """Return children one after another: text escaped, lists flattened, None left out."""
    return Markup("".join(map(_text, children)))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    return escape(one_line(child), quote=False) if isinstance(child, str) else join(*child)


def listing(items: Iterable[Child], **attributes: str | int | bool | None) -> Markup:
    """Return a bullet list."""
    return tag("ul", [tag("li", item) for item in items], **attributes)


def folded(summary: Child, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """Return a `details` element: a summary line and its content, hidden until opened."""
    return tag("details", tag("summary", summary), *children, **attributes)
