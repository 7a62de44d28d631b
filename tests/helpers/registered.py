"""What a registered method needs beside its line in METHODS, and which of it is missing."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from layerfit import methods
from layerfit.config import ROOT
from layerfit.methods import METHODS
from layerfit.methods.base import Method

PLACE = "layerfit/methods/__init__.py"
PARTS_OF_METHODS = {"LowRank", "Bottleneck"}
"""Classes that methods have in common and that are none themselves."""


def index_rows(root: Path = ROOT) -> dict[str, dict[str, str]]:
    """The rows of the index of methods by method: column -> cell."""
    text = (root / "docs" / "methods" / "README.md").read_text()
    lines = re.findall(r"^\|(.*)\|$", text[: text.index("\n\nEngines:")], re.MULTILINE)
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {cells[0].strip("`"): dict(zip(header, cells, strict=True)) for cells in rows}


def lacking(name: str, root: Path = ROOT) -> list[str]:
    """What a method still needs, one line each: the file, and what to write there."""
    out = []
    stored, schema = root / "conf" / "method" / f"{name}.yaml", f"{name}_schema"
    if not stored.is_file():
        out.append(f"conf/method/{name}.yaml is missing: begin it with defaults: [{schema}, _self_]")
    elif schema not in stored.read_text():
        out.append(f"conf/method/{name}.yaml does not take its schema: add {schema} to its defaults")
    row = index_rows(root).get(name)
    if row is None:
        out.append(f"docs/methods/README.md has no row for `{name}`: add one to its first table")
    link = re.search(r"\]\((.*?)\)", row["card"]) if row else None
    card = link[1] if link else f"{name}.md"
    if not (root / "docs" / "methods" / card).is_file():
        out.append(f"docs/methods/{card} is missing: copy a card of a method like it, for example lisa.md")
    elif f"method={name}" not in (root / "docs" / "methods" / card).read_text():
        out.append(f"docs/methods/{card} does not name method={name}: give it a table of its keys")
    return out


def defined() -> Iterator[type[Method]]:
    """Every class of layerfit/methods that is a method."""
    for module in pkgutil.iter_modules(methods.__path__):
        found = importlib.import_module(f"{methods.__name__}.{module.name}")
        for value in vars(found).values():
            own = isinstance(value, type) and issubclass(value, Method) and value.__module__ == found.__name__
            if own and value is not Method and value.__name__ not in PARTS_OF_METHODS:
                yield value


def unregistered() -> list[str]:
    """Methods that nobody can choose, one line each."""
    return [
        f"{one.__name__} ({one.__module__}) cannot be chosen: add it to METHODS in {PLACE}"
        for one in defined()
        if one not in METHODS.values()
    ]
