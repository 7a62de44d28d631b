"""The embedded profile of a table: the same rows and columns, with what stands for its models, data and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerfit.errors import UserError
from layerfit.report.reading import section, strings

Raw = dict[str, Any]
_OWN = ("note", "base", "stands_for", "columns", "seeds", "views", "tuned", "tuned_as", "tuning", "footnotes", "gates")
_REPLACED = ("seeds", "views", "tuned", "tuned_as", "tuning", "gates")
"""Sections that the profile has of its own, or not at all (views and seeds: the table's, if it says nothing)."""


def embedded(raw: Raw, where: str) -> tuple[Raw, tuple[tuple[str, str], ...]]:
    """Return a table's YAML with its section `nano` applied, and what was replaced by what.

    Raises:
        UserError: if there is no such section, or it names what the table does not have.
    """
    if raw.get("nano") is None:
        raise UserError(
            f"{where} has no section `nano`, the table's embedded profile; add one, or use the table itself"
        )
    own = section(raw["nano"], where, "nano", _OWN)
    stands = {
        text: strings(by, where, f"nano.stands_for.{text}")
        for text, by in section(own.get("stands_for") or {}, where, "nano.stands_for", empty=True).items()
    }
    used: set[str] = set()

    def replaced(texts: Any, key: str) -> list[str]:
        given = strings(texts or [], where, key)
        used.update(text for text in given if text in stands)
        return [new for text in given for new in stands.get(text, (text,))]

    out = {key: value for key, value in raw.items() if key not in ("nano", "tuned", "tuned_as", "tuning", "gates")}
    out |= {key: own[key] for key in _REPLACED if own.get(key) is not None}
    out["title"] = f"{raw['title']} (embedded world)"
    out["note"] = own.get("note") or raw.get("note")
    out["base"] = replaced(raw.get("base"), "base") + list(strings(own.get("base") or [], where, "nano.base"))
    out["rows"] = _rows(raw["rows"], replaced)
    out["columns"] = _columns(raw.get("columns") or {}, own.get("columns") or {}, where)
    out["footnotes"] = list(raw.get("footnotes") or []) + list(own.get("footnotes") or [])
    if idle := [text for text in stands if text not in used]:
        raise UserError(f"{where}: nano.stands_for names {idle[0]!r}, which no row or base says; take it out")
    return out, tuple((text, " ".join(by)) for text, by in stands.items())


def _rows(rows: Any, replaced: Any) -> Raw:
    def one(label: str, value: Any) -> Any:
        if isinstance(value, list):
            return replaced(value, f"rows.{label}")
        if isinstance(value, Mapping) and "rows" in value:
            base = replaced(value.get("base"), f"rows.{label}.base")
            return {"base": base, "rows": {k: one(f"{label}.{k}", v) for k, v in value["rows"].items()}}
        return value

    return {label: one(label, value) for label, value in rows.items()}


def _columns(columns: Raw, changed: Raw, where: str) -> Raw:
    if unknown := [label for label in changed if label not in columns]:
        raise UserError(f"{where}: nano.columns names {unknown[0]!r}; columns: {', '.join(columns)}")
    return {label: changed.get(label, value) for label, value in columns.items()}
