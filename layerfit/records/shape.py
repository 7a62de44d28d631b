"""From JSON to data classes, as their annotations say; nothing is taken that they do not allow."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
}


def loads(text: str | bytes) -> Any:
    """Return JSON in which every number is finite and no key stands twice.

    Raises:
        ValueError: if it is not such JSON, in one line.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        found = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
        if not _is_finite(found):  # 1e999 is infinite for Python
            raise ValueError("it holds a number beyond any float")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"it holds {text}, which is not a finite number")


def _is_finite(value: Any) -> bool:
    """Return whether every number in JSON is finite and fits into a float; long lists of numbers are summed."""
    if type(value) is dict:
        return all(map(_is_finite, value.values()))
    if type(value) is list:
        try:
            if math.isfinite(sum(value)):
                return True
        except (TypeError, OverflowError):  # not only numbers
            pass
        return all(map(_is_finite, value))
    return abs(value) < sys.float_info.max if type(value) in (int, float) else True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return out


def build(hint: Any, data: Any, where: str = "") -> Any:
    """Return JSON as a value of a type: a data class, or what annotations of its fields are made of.

    Raises:
        ValueError: naming the place that does not fit: `result.scores[2].value is '0.5', not a number`.
    """
    return _builder(hint)(data, where)


Builder = Callable[[Any, str], Any]


@cache
def _builder(hint: Any) -> Builder:
    """Return the function for a type; made once for each."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _of_class(hint)
    if origin in (Union, types.UnionType):
        return _of_union(inner)
    if origin is list:
        return _of_list(inner[0])
    if origin is tuple:
        return _of_tuple([_builder(one) for one in inner])
    if origin is dict:
        return _of_dict(inner[1])
    return (lambda data, _: data) if hint is Any else _of_plain(hint)


def _wrong(data: Any, what: str, where: str) -> ValueError:
    shown = json.dumps(data)
    return ValueError(f"{where or 'it'} is {shown if len(shown) <= 40 else shown[:37] + '...'}, not {what}")


def _of_plain(hint: Any) -> Builder:
    accepted = (int, float) if hint is float else (hint,)

    def made(data: Any, where: str) -> Any:
        if type(data) not in accepted:  # a bool is an int for `isinstance`
            raise _wrong(data, _WORDS.get(hint, "null"), where)
        return data

    return made


def _of_union(inner: tuple[Any, ...]) -> Builder:
    assert inner[1:] == (types.NoneType,), "of unions a record has optional fields only"
    some = _builder(inner[0])
    return lambda data, where: None if data is None else some(data, where)


_QUICK: dict[Any, set[Any]] = {float: {int, float}, float | None: {int, float, types.NoneType}, str: {str}}
"""JSON's types of long lists, which are looked at as a whole."""


def _of_list(inner: Any) -> Builder:
    one, quick = _builder(inner), _QUICK.get(inner)

    def made(data: Any, where: str) -> Any:
        if type(data) is not list:
            raise _wrong(data, "a list", where)
        if quick is not None and set(map(type, data)) <= quick:
            return data
        return [one(item, f"{where}[{i}]") for i, item in enumerate(data)]

    return made


def _of_tuple(inner: list[Builder]) -> Builder:
    def made(data: Any, where: str) -> Any:
        if type(data) is not list or len(data) != len(inner):
            raise _wrong(data, f"a list of {len(inner)}", where)
        return tuple(one(item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(inner, data, strict=True)))

    return made


def _of_dict(inner: Any) -> Builder:
    one = _builder(inner)

    def made(data: Any, where: str) -> Any:
        if type(data) is not dict:
            raise _wrong(data, "an object", where)
        return data if inner is Any else {key: one(value, f"{where}.{key}") for key, value in data.items()}

    return made


def _of_class(cls: Any) -> Builder:
    hints = get_type_hints(cls)
    each = {f.name: _builder(hints[f.name]) for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}

    def made(data: Any, where: str) -> Any:
        if type(data) is not dict:
            raise _wrong(data, "an object", where)
        at = f"{where}." if where else ""
        if unknown := data.keys() - each.keys():
            raise ValueError(f"{at}{min(unknown)} is a field of nobody")
        if missing := needed - data.keys():
            raise ValueError(f"{at}{min(missing)} is missing")
        return cls(**{name: each[name](value, f"{at}{name}") for name, value in data.items()})

    return made
