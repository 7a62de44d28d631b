"""A run's id: a hash of everything that determines its result; and the runs required before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from layerfit.config.schema import DatasetConfig, EvalConfig, RunConfig, SaveConfig
from layerfit.errors import UserError
from layerfit.files import content
from layerfit.files.names import is_repository
from layerfit.files.paths import check_kind, expand
from layerfit.methods.base import Method
from layerfit.records.record import id_of


def _of_data(node: Any, path: Path) -> str:
    check_kind("dataset.path", path)
    if not path.exists():
        raise UserError(
            f"dataset.path={path} does not exist (relative to the working directory); "
            "give a .jsonl, .json, .csv or .parquet file, or a folder"
        )
    return content.of_data(path, node.subset)


def _of_model(_: Any, path: Path) -> str:
    if not path.is_dir():
        raise UserError(f"model.path={path} is not a folder; give a folder with config.json, or model.path=null")
    return content.of_model(path)


def _of_judge(_: Any, path: Path) -> str:
    if path.is_dir():
        return content.of_model(path)
    if "/" not in str(path) or not is_repository(str(path)):
        raise UserError(f"eval.judge.model_path={path} is neither a folder nor a hub id, <org>/<name>")
    return str(path)


def _of_ranking(node: Any, path: Path) -> str:
    """`auto` stays a word, also where a file has that name: the method says which it reads."""
    source = node.rankings()
    if source is None or source.path is None:
        return str(path)
    if not path.exists():
        raise UserError(f"method.ranking={path} does not exist; give a file of results/rankings/")
    return content.of_file(path)


_FILES: dict[str, tuple[str, Callable[[Any, Path], str]]] = {
    "data": ("dataset.path", _of_data),
    "model": ("model.path", _of_model),
    "judge": ("eval.judge.model_path", _of_judge),
    "content": ("method.ranking", _of_ranking),
}
"""Rules of fields that hold a path, which enters by what is there, not by name: key, and what is taken of it."""


def identity_of(node: Any) -> Any:
    """Reduce a config to JSON of the fields that determine its result.

    A field with metadata `since` was added after records existed: it is left out while it has its default, so that
    the ids of old records do not change. `ranking_data` enters as the ids of the runs it requires, not by name or
    order.

    Raises:
        UserError: if a file that it names does not exist or cannot be read.
    """
    if is_dataclass(node) and not isinstance(node, type):
        out: dict[str, Any] = {"kind": type(node).__name__} if isinstance(node, Method) else {}
        for name, rule, since, default in _rules(type(node)):
            value = getattr(node, name)
            if since and value == (default() if callable(default) else default):
                continue
            if rule == "runs":
                out[name] = sorted(run_id(before) for before in required_runs(node))  # type: ignore[arg-type]
            elif rule in _FILES and value is not None:
                key, taken = _FILES[rule]
                out[name] = taken(node, expand(key, value))
            else:
                out[name] = identity_of(value)
        return out
    if isinstance(node, list | tuple):
        return [identity_of(item) for item in node]
    return node


@cache
def _rules(kind: type) -> tuple[tuple[str, Any, bool, Any], ...]:
    """Return the fields of a class that count: name, rule, whether it was added later, its default (or its maker)."""
    out = []
    for f in fields(kind):
        default = f.default_factory if f.default_factory is not NO_DEFAULT else f.default
        if (rule := f.metadata.get("identity", True)) is not False:
            out.append((f.name, rule, "since" in f.metadata, default))
    return tuple(out)


def run_id(run: RunConfig) -> str:
    """Return a run's id, ten hex digits: equal for all runs whose results should be equal."""
    return id_of(identity_of(run))


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Return the keys in which two identities differ: `dataset.path`."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        return [each for k in before for each in differences(before[k], now[k], f"{key}.{k}" if key else k)]
    return [] if before == now else [key]


def least(*values: int | None) -> int:
    """Return the minimum of some numbers; null means not known yet and is ignored."""
    return min(value for value in values if value is not None)


def required_runs(run: RunConfig) -> list[RunConfig]:
    """Return the runs that must exist before this one (rankings): one, or one for each of `ranking_data`, or none.

    They share the run's model, training, optimizer and seeds, so the same command line with another method (and
    dataset) gives the same ids. The one on the run's own data comes first.
    """
    source = run.method.rankings()
    if source is None or source.run is None:
        return []
    others = sorted(run.ranking_data.values(), key=lambda data: data != run.dataset)
    return [_before(run, source.run, data) for data in others or [run.dataset]]


def _before(run: RunConfig, method: Method, data: DatasetConfig) -> RunConfig:
    """Return the run of another method on some data, without evaluation.

    `training.max_length` defaults to the data's in `conf/config.yaml`; so it does here, unless the run sets its own.
    """
    bound, length = run.model.max_positions, run.training.max_length
    if length == least(run.dataset.max_length, bound):
        length = least(data.max_length, bound)
    return dataclasses.replace(
        run,
        method=method,
        dataset=data,
        ranking_data={},
        training=dataclasses.replace(run.training, max_length=length, norms=False),  # the same ranking with or without
        eval=EvalConfig(name="none", tasks=[]),
        save=SaveConfig(),
        label="",
    )
