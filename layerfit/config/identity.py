"""A run's id: a hash of everything that determines its result; and the runs required before it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from layerfit.config.schema import DatasetConfig, EvalConfig, RunConfig, SaveConfig
from layerfit.methods.base import Method


def _content(value: str) -> str:
    """Return the hash of a file, or of a folder's files: paths enter the id by content, not by name."""
    path = Path(value)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.blake2s()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"sha:{digest.hexdigest()[:16]}"


def identity_of(node: Any) -> Any:
    """Reduce a config to JSON of the fields that determine its result.

    A field with metadata `since` was added after records existed: it is left out while it has its default, so that
    the ids of old records do not change. `ranking_data` enters as the ids of the runs it requires, not by name or
    order.
    """
    if is_dataclass(node) and not isinstance(node, type):
        out: dict[str, Any] = {"kind": type(node).__name__} if isinstance(node, Method) else {}
        for f in fields(node):
            rule, value = f.metadata.get("identity", True), getattr(node, f.name)
            default = f.default_factory() if f.default_factory is not NO_DEFAULT else f.default
            if rule is False or ("since" in f.metadata and value == default):
                continue
            if rule == "runs":
                out[f.name] = sorted(run_id(before) for before in required_runs(node))  # type: ignore[arg-type]
                continue
            by_content = rule == "content" and value is not None and Path(value).exists()
            out[f.name] = _content(value) if by_content else identity_of(value)
        return out
    if isinstance(node, list | tuple):
        return [identity_of(item) for item in node]
    return node


def run_id(run: RunConfig) -> str:
    """Return a run's id, ten hex digits: equal for all runs whose results should be equal."""
    text = json.dumps(identity_of(run), sort_keys=True)
    return hashlib.blake2s(text.encode(), digest_size=5).hexdigest()


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
