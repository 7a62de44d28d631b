"""What every value of a composed run must meet, whatever its key: one pass over the whole tree.

The rules of single keys are in the data classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from layerfit.config.messages import unknown_key
from layerfit.errors import LARGEST, LARGEST_FLOAT, LARGEST_SEED, MOST_SEQUENCES, WIDEST, UserError
from layerfit.files.paths import expand

_LONGEST_TEXT = 4096
_LARGEST = {
    "seed": LARGEST_SEED,
    **dict.fromkeys(("rank", "init_rank", "size"), WIDEST),
    **dict.fromkeys(("batch_size", "micro_batch_size", "probe_batch_size", "mask_batch_size"), MOST_SEQUENCES),
    "num_candidates": 10_000,
}
"""Bounds beyond any machine, by the last part of a key; for other whole numbers LARGEST."""


def check_values(cfg: DictConfig) -> None:
    """Check every key and value of a composed configuration, before the data classes see them.

    Raises:
        UserError: naming the first key that no data class has, that was removed, or whose value is no finite number,
            is beyond any machine, is empty, or is no text that can be printed.
    """
    for _ in _walk(cfg, ""):
        pass


def _walk(node: Any, key: str, own: Field[Any] | None = None) -> Iterator[None]:
    """Visit a node and all below it. own: the field that holds it, None inside lists and dictionaries."""
    if isinstance(node, DictConfig):
        for name, value, known in _items(node, key):
            yield from _walk(value, f"{key}.{name}" if key else name, known)
    elif isinstance(node, ListConfig):
        for index, value in enumerate(node):
            if isinstance(value, ListConfig):
                raise UserError(f"{key}[{index}]={value} is a list inside a list; give a list of values, [a,b]")
            yield from _walk(value, f"{key}[{index}]")
    elif isinstance(node, bool) or node is None:
        pass
    elif isinstance(node, int | float):
        _check_number(key, node)
    elif isinstance(node, str):
        check_text(key, node, blank=own is not None and own.default == "")
        if own is not None and "path" in own.metadata:
            expand(key, node)
    yield


def _items(node: DictConfig, key: str) -> Iterator[tuple[str, Any, Field[Any] | None]]:
    """Return the keys of a node with their values and fields; values that are still to be given are left out."""
    kind = OmegaConf.get_type(node)
    known = {f.name: f for f in fields(kind)} if is_dataclass(kind) else None
    names = [str(name) for name in node]
    if known is not None:
        _check_keys(key, names, known)
    for name in node:
        check_text(f"a name in {key or 'the run'}", str(name))
        if not OmegaConf.is_missing(node, name):
            yield str(name), node[name], None if known is None else known[str(name)]


def _check_keys(key: str, names: list[str], known: Iterable[str]) -> None:
    known = list(known)
    if extra := next((name for name in names if name not in known), None):
        raise UserError(unknown_key(f"{key}.{extra}" if key else extra, known))
    if lost := next((name for name in known if name not in names), None):
        full = f"{key}.{lost}" if key else lost
        raise UserError(
            f"{full} was taken out (~{full}), but every run has it; leave ~{full} out, or set another value"
        )


def _check_number(key: str, value: float) -> None:
    if isinstance(value, int):
        largest = _LARGEST.get(key.rpartition(".")[2], LARGEST)
        if abs(value) > largest:
            digits = len(f"{abs(value):x}") * 1.2
            said = value if digits < 40 else f"(a number of about {digits:.0f} digits)"
            raise UserError(f"{key}={said} is beyond any machine; give at most {largest:,}")
        if value < 0 and largest == LARGEST_SEED:
            raise UserError(f"{key}={value} is negative; a seed is 0 or more")
    elif not math.isfinite(value):
        raise UserError(f"{key}={value} is not a finite number; give one like 0.1 or 1e-5")
    elif abs(value) > LARGEST_FLOAT:
        raise UserError(f"{key}={value:g} is more than a 32-bit number holds; give at most {LARGEST_FLOAT:g}")


def check_text(key: str, text: str, *, blank: bool = False) -> None:
    """Raise UserError if a text cannot be a name, an id or a path: empty (unless `blank`), or not printable."""
    if not text.strip():
        if blank and not text:
            return
        raise UserError(f"{key}={text!r} is empty; give a value, or leave it out")
    if len(text) > _LONGEST_TEXT:
        raise UserError(f"{key}={text[:40]}... has {len(text):,} characters; give at most {_LONGEST_TEXT:,}")
    if any(0xD800 <= ord(c) < 0xE000 for c in text):
        raise UserError(f"{key}={text[:80]!a} is not valid Unicode (bytes that are no UTF-8?); write it in UTF-8")
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise UserError(f"{key}={text[:80]!a} has control characters (a line break, a tab, NUL); leave them out")


def expand_paths(node: Any) -> None:
    """Expand every field that holds a path (metadata `path`) in a tree of data classes, in place."""
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            expand_paths(value)
    elif is_dataclass(node) and not isinstance(node, type):
        for f in fields(node):
            value = getattr(node, f.name)
            if "path" in f.metadata and value is not None:
                setattr(node, f.name, str(expand(f.name, value)))
            else:
                expand_paths(value)
