"""Reading a table's YAML: each helper refuses with the file, the key, the value and what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerfit.errors import UserError

Value = str | int | float | bool
Grid = dict[str, dict[str, tuple[Value, ...]]]
"""Row -> knob -> values: every combination is a trial."""


def read_yaml(path: Path) -> object:
    """Read YAML; OmegaConf's loader knows that 1e-3 is a number and refuses a key given twice."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except YAMLError as error:
        raise UserError(f"{path.parent.name}/{path.name} is no YAML: {' '.join(str(error).split())}") from error


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
        raise UserError(f"{where}: {name} is no mapping; write `key: value` lines, got {data!r}")
    out = {str(k): v for k, v in data.items()}
    unknown = [k for k in out if allowed is not None and k not in allowed]
    if unknown and allowed is not None:
        raise UserError(f"{where}: unknown key {unknown[0]!r} in {name}; allowed: {', '.join(allowed)}")
    missing = [k for k in required if out.get(k) is None]
    if missing:
        raise UserError(f"{where}: {name} lacks {', '.join(missing)}")
    return out


def strings(data: object, where: str, key: str) -> tuple[str, ...]:
    """Return a list of texts."""
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise UserError(f"{where}: {key} is no list of texts, such as [optim.lr=1e-3]; got {data!r}")
    return tuple(data)


def count(data: object, where: str, key: str, low: int = 1) -> int:
    """Return a whole number of at least `low`."""
    if not isinstance(data, int) or isinstance(data, bool) or data < low:
        raise UserError(f"{where}: {key}={data!r} is no number of things; give a whole number from {low}")
    return data


def seeds(data: object, where: str, key: str) -> tuple[int, ...]:
    """Return a list of different whole numbers."""
    out = tuple(count(seed, where, key, low=0) for seed in data) if isinstance(data, list) else ()
    if not out or len(set(out)) < len(out):
        raise UserError(f"{where}: {key}={data!r} is no list of different seeds, such as [0, 1, 2]")
    return out


def grid(data: object, where: str, key: str) -> Grid:
    """Return values by row and knob, every list without repetition."""
    out: Grid = {}
    for row, knobs in section(data, where, key, empty=True).items():
        out[row] = {}
        for knob, values in section(knobs, where, f"{key}.{row}").items():
            if not isinstance(values, list) or not values or not all(isinstance(v, Value) for v in values):
                raise UserError(f"{where}: {key}.{row}.{knob}={values!r} is no list of values")
            if len(set(values)) < len(values):
                raise UserError(f"{where}: {key}.{row}.{knob}={values!r} names a value twice")
            out[row][knob] = tuple(values)
    return out
