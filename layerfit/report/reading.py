"""Read a table's YAML and its profile; errors name the file, the key, the value and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerfit.errors import UserError

Value = str | int | float | bool
SearchGrid = dict[str, dict[str, tuple[Value, ...]]]
"""Row -> knob -> values: every combination is a trial."""
Raw = dict[str, Any]
_OWN = ("note", "base", "stands_for", "columns", "seeds", "views", "tuned", "tuned_as", "tuning", "footnotes", "gates")
_REPLACED = ("seeds", "views", "tuned", "tuned_as", "tuning", "gates")
"""Sections that a profile does not inherit, except views and seeds, which default to the table's."""


def read_yaml(path: Path) -> object:
    """Read YAML with OmegaConf's loader, which parses 1e-3 as a number and refuses duplicate keys."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except YAMLError as error:
        raise UserError(f"{path.parent.name}/{path.name} is not valid YAML: {' '.join(str(error).split())}") from error


def section(
    data: object,
    where: str,
    key: str,
    allowed: tuple[str, ...] | None = None,
    required: tuple[str, ...] = (),
    *,
    empty: bool = False,
) -> dict[str, Any]:
    """Return a mapping whose keys are `allowed` (None: any) and include `required`."""
    name = key or "the file"
    if not isinstance(data, Mapping) or (not data and not empty):
        raise UserError(f"{where}: {name} is not a mapping; write `key: value` lines, got {data!r}")
    out = {str(k): v for k, v in data.items()}
    unknown = [k for k in out if allowed is not None and k not in allowed]
    if unknown and allowed is not None:
        raise UserError(f"{where}: unknown key {unknown[0]!r} in {name}; allowed: {', '.join(allowed)}")
    missing = [k for k in required if out.get(k) is None]
    if missing:
        raise UserError(f"{where}: {name} lacks {', '.join(missing)}")
    return out


def strings(data: object, where: str, key: str) -> tuple[str, ...]:
    """Return a list of strings as a tuple."""
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise UserError(f"{where}: {key} is not a list of texts, such as [optim.lr=1e-3]; got {data!r}")
    return tuple(data)


def count(data: object, where: str, key: str, low: int = 1) -> int:
    """Return a whole number of at least `low`."""
    if not isinstance(data, int) or isinstance(data, bool) or data < low:
        raise UserError(f"{where}: {key}={data!r} is invalid; give a whole number of at least {low}")
    return data


def seeds(data: object, where: str, key: str) -> tuple[int, ...]:
    """Return a list of different whole numbers."""
    out = tuple(count(seed, where, key, low=0) for seed in data) if isinstance(data, list) else ()
    if not out or len(set(out)) < len(out):
        raise UserError(f"{where}: {key}={data!r} is not a list of different seeds, such as [0, 1, 2]")
    return out


def grid(data: object, where: str, key: str) -> SearchGrid:
    """Return values by row and knob; a list with duplicates is refused."""
    out: SearchGrid = {}
    for row, knobs in section(data, where, key, empty=True).items():
        out[row] = {}
        for knob, values in section(knobs, where, f"{key}.{row}").items():
            if not isinstance(values, list) or not values or not all(isinstance(v, Value) for v in values):
                raise UserError(f"{where}: {key}.{row}.{knob}={values!r} is not a list of values")
            if len(set(values)) < len(values):
                raise UserError(f"{where}: {key}.{row}.{knob}={values!r} has a value twice")
            out[row][knob] = tuple(values)
    return out


def embedded(raw: Raw, where: str) -> tuple[Raw, tuple[tuple[str, str], ...]]:
    """Return a table's YAML with its section `nano` applied, and the replacements made.

    Raises:
        UserError: if there is no such section, or it names a row, column or override that the table lacks.
    """
    if raw.get("nano") is None:
        raise UserError(
            f"{where} has no section `nano`, the table's embedded profile; add one, or use the table itself"
        )
    own = section(raw["nano"], where, "nano", _OWN)
    stands = _stands_for(own.get("stands_for") or {}, where)
    used: set[tuple[str, str]] = set()

    def replaced(texts: Any, key: str, group: str = "") -> list[str]:
        out: list[str] = []
        for text in strings(texts or [], where, key):
            place = (group, text) if (group, text) in stands else ("", text)
            used.add(place)
            out += stands.get(place, (text,))
        return out

    out = {key: value for key, value in raw.items() if key not in ("nano", "tuned", "tuned_as", "tuning", "gates")}
    out |= {key: own[key] for key in _REPLACED if own.get(key) is not None}
    out["title"] = f"{raw['title']} (embedded world)"
    out["note"] = own.get("note") or raw.get("note")
    out["base"] = replaced(raw.get("base"), "base") + list(strings(own.get("base") or [], where, "nano.base"))
    out["rows"] = _profile_rows(raw["rows"], replaced)
    out["columns"] = _profile_columns(raw.get("columns") or {}, own.get("columns") or {}, where)
    out["footnotes"] = list(raw.get("footnotes") or []) + list(own.get("footnotes") or [])
    if idle := [text for group, text in stands if (group, text) not in used]:
        raise UserError(f"{where}: nano.stands_for names {idle[0]!r}, which no row or base has; remove it")
    named = ((f"{group}: {text}" if group else text, " ".join(by)) for (group, text), by in stands.items())
    return out, tuple(named)


def _stands_for(data: Any, where: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the replacements of overrides, by (group, override); the group is '' for all rows.

    A mapping under a group's label applies to that group's rows and takes precedence over those for all rows.
    """
    out: dict[tuple[str, str], tuple[str, ...]] = {}
    for text, by in section(data, where, "nano.stands_for", empty=True).items():
        inner = by if isinstance(by, Mapping) else {text: by}
        group = text if isinstance(by, Mapping) else ""
        for one, texts in inner.items():
            out[group, str(one)] = strings(texts, where, f"nano.stands_for.{text}")
    return out


def _profile_rows(rows: Any, replaced: Any) -> Raw:
    def one(label: str, value: Any, group: str = "") -> Any:
        if isinstance(value, list):
            return replaced(value, f"rows.{label}", group)
        if isinstance(value, Mapping) and "rows" in value:
            base = replaced(value.get("base"), f"rows.{label}.base", label)
            return {"base": base, "rows": {k: one(f"{label}.{k}", v, label) for k, v in value["rows"].items()}}
        return value

    return {label: one(label, value) for label, value in rows.items()}


def _profile_columns(columns: Raw, changed: Raw, where: str) -> Raw:
    if unknown := [label for label in changed if label not in columns]:
        raise UserError(f"{where}: nano.columns names {unknown[0]!r}; columns: {', '.join(columns)}")
    return {label: changed.get(label, value) for label, value in columns.items()}
