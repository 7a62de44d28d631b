"""`conf/claims/*.yaml`: each empirical claim of the slides, and its test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerfit.claims.judge import QUANTIFIERS
from layerfit.claims.kinds import KINDS
from layerfit.config import CONF
from layerfit.errors import UserError
from layerfit.report.reading import read_yaml, section, strings
from layerfit.report.spec import PROFILE

OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "better": (("pairs",), ("columns",)),
    "not_worse": (("pairs", "margin"), ("columns",)),
    "equivalent": (("pairs", "margin"), ("columns",)),
    "differ": (("pairs",), ("columns",)),
    "interaction": (("pairs", "more", "less"), ()),
    "spread": (("rows", "margin"), ("columns",)),
    "at_least": (("threshold",), ("rows", "ratio", "columns", "view", "matrix", "over", "minus", "by")),
    "at_most": (("threshold",), ("rows", "ratio", "columns", "view", "matrix", "over", "minus", "by")),
}
"""Kind -> required and optional keys of its test, besides `kind` and `quantifier`."""


@dataclass(frozen=True)
class Test:
    """A test of one table. options: those of the kind (`kinds`)."""

    table: str
    kind: str
    quantifier: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """A claim. asks: its reading in plain words, with the reason for a margin or threshold. part: which part or reading
    of the sentence, where it has several.

    test: None where no number can test it, for the reason in `untestable`. nano: the test in the embedded world, on the
    table's profile or another table, with options of its own where the columns differ; None where it does not apply
    there, for the reason in `not_nano`.
    """

    name: str
    slide: str
    sentence: str
    asks: str
    test: Test | None
    nano: Test | None
    part: str = ""
    untestable: str = ""
    not_nano: str = ""

    @property
    def title(self) -> str:
        """Return the sentence, with its part or reading if it has several."""
        return f"{self.sentence} ({self.part})" if self.part else self.sentence


def load(conf: Path = CONF) -> list[Claim]:
    """Read every claim, files by name and claims in the order of their file.

    Raises:
        UserError: naming the first mistake.
    """
    out: list[Claim] = []
    for path in sorted((conf / "claims").glob("*.yaml")):
        where = f"conf/claims/{path.name}"
        out += [_claim(name, raw, where) for name, raw in section(read_yaml(path), where, "").items()]
    names = [claim.name for claim in out]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"conf/claims: two claims are named {twice[0]!r}; rename one")
    titles = [claim.title for claim in out]
    if twice := [claim.name for claim in out if titles.count(claim.title) > 1]:
        raise UserError(f"conf/claims: {' and '.join(twice)} have the same sentence; tell them apart with `part`")
    return out


def _claim(name: str, data: object, where: str) -> Claim:
    keys = ("slide", "sentence", "part", "asks", "table", "test", "nano", "untestable")
    raw = section(data, where, name, keys, ("slide", "sentence"))
    texts = {key: " ".join(str(raw.get(key) or "").split()) for key in keys if key not in ("table", "test", "nano")}
    one = Claim(name, texts["slide"], texts["sentence"], texts["asks"], None, None, texts["part"], texts["untestable"])
    if one.untestable:
        if raw.get("test") or raw.get("table"):
            raise UserError(f"{where}: {name} is untestable and has a test; take one of them out")
        return one
    if not (raw.get("test") and raw.get("table") and one.asks):
        raise UserError(f"{where}: {name} needs asks, table and test, or else untestable with the reason")
    one = replace(one, test=_test(str(raw["table"]), raw["test"], where, f"{name}.test"))
    own = section(raw.get("nano") or {}, where, f"{name}.nano", ("table", "test", "untestable"), empty=True)
    if own.get("untestable"):
        return replace(one, not_nano=str(own["untestable"]))
    table = str(own.get("table") or f"{raw['table']}{PROFILE}")
    return replace(one, nano=_test(table, own.get("test") or raw["test"], where, f"{name}.nano.test"))


def _test(table: str, data: object, where: str, key: str) -> Test:
    if not isinstance(data, Mapping) or data.get("kind") not in OPTIONS:
        raise UserError(f"{where}: {key} has no known kind; choose one of: {', '.join(KINDS)}")
    kind = str(data["kind"])
    needed, more = OPTIONS[kind]
    raw = section(data, where, key, ("kind", "quantifier", *needed, *more), ("quantifier", *needed))
    if raw["quantifier"] not in QUANTIFIERS:
        raise UserError(f"{where}: {key}.quantifier={raw['quantifier']!r}; choose one of: {', '.join(QUANTIFIERS)}")
    options = {name: value for name, value in raw.items() if name not in ("kind", "quantifier") and value is not None}
    for name in {"rows", "columns", "more", "less", "over", "minus"} & options.keys():
        options[name] = list(strings(options[name], where, f"{key}.{name}"))
    for name in {"pairs", "ratio"} & options.keys():
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in options[name]):
            raise UserError(f"{where}: {key}.{name} is not a list of pairs, such as [[LISA, LoRA], [LISA, FT]]")
    return Test(table, kind, str(raw["quantifier"]), options)
