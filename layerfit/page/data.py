"""Records as compact JSON, the data of the pages of single runs. Omissions are stated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, isfinite, log10
from typing import Any

from layerfit.anatomy import EMBEDDING, HEAD, NORM, block_of
from layerfit.files.shown import one_line
from layerfit.records.record import Record

MOST_POINTS = 1000
"""A longer curve is drawn as means of equal intervals."""
MOST_VALUES = 40
"""A longer list in a run's findings is counted, not printed; the record has it."""
Json = Any


def rounded(value: float, figures: int = 4) -> float:
    """Return a number with `figures` significant digits, as short as JSON can write it."""
    if value == 0 or not isfinite(value):
        return 0.0 if value == 0 else value
    out = round(value, figures - 1 - int(log10(abs(value)) // 1))
    return int(out) if out == int(out) else out


def curve(values: Sequence[float]) -> dict[str, Json]:
    """Return a curve: its points, each the mean of `every` steps (1: as recorded).

    A loss that is not finite (a run that diverged) is null.
    """
    every = max(1, ceil(len(values) / MOST_POINTS))
    means = [sum(part) / len(part) for i in range(0, len(values), every) if (part := values[i : i + every])]
    return {"every": every, "points": [rounded(v) if isfinite(v) else None for v in means]}


def plan_rows(plans: Sequence[tuple[int, list[str]]], config: Mapping[str, Any], steps: int) -> dict[str, Json]:
    """Return the plan history as a raster: `rows` from the embedding up, and the intervals of steps of every row.

    runs: [start, length, percent, start, length, percent, ...]; percent: share of the row in the plan, 100 for a whole
    block, less where only some of its modules train. A row that never trained has none.
    """
    model = config.get("model", {})
    blocks, modules = int(model.get("num_layers") or 0), max(1, len(model.get("linear") or ()))
    rows = [EMBEDDING, *(f"layers.{i}" for i in range(blocks)), NORM, HEAD]
    runs: dict[str, list[int]] = {row: [] for row in rows}
    ends = [step for step, _ in plans[1:]] + [max(steps, plans[-1][0] + 1 if plans else 0)]
    for (start, units), end in zip(plans, ends, strict=False):
        for row, percent in _percents(units, modules).items():
            _extend(runs.setdefault(row, []), start, end - start, percent)
    return {"rows": list(runs), "runs": list(runs.values()), "changes": max(0, len(plans) - 1)}


def _percents(units: Iterable[str], modules: int) -> dict[str, int]:
    """Return the percentage of each row in a plan."""
    out: dict[str, int] = {}
    parts: Counter[str] = Counter()
    for unit in units:
        if (block := block_of(unit)) == unit:
            out[unit] = 100
        else:
            parts[block] += 1
    for row, count in parts.items():
        out.setdefault(row, min(100, round(100 * count / modules)))
    return out


def _extend(runs: list[int], start: int, length: int, percent: int) -> None:
    """Append an interval, or extend the last one if it continues unchanged."""
    if runs and runs[-3] + runs[-2] == start and runs[-1] == percent:
        runs[-2] += length
    else:
        runs += [start, length, percent]


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Json]:
    """Flatten nested settings to dotted keys."""
    out: dict[str, Json] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def shortened(value: Json) -> Json:
    """Return findings for display: four significant digits, the length in place of a long list."""
    if isinstance(value, float):
        return rounded(value) if isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): shortened(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(v) for v in value] if len(value) <= MOST_VALUES else f"{len(value)} values, in the record"
    return value


def shared(settings: Iterable[Mapping[str, Json]]) -> dict[str, Json]:
    """Return the most common value of every key, so that a run stores only its differences. Ties: the first seen."""
    counts: dict[str, Counter[str]] = {}
    for one in settings:
        for key, value in one.items():
            counts.setdefault(key, Counter())[json.dumps(value, sort_keys=True)] += 1
    return {key: json.loads(found.most_common(1)[0][0]) for key, found in sorted(counts.items())}


def difference(settings: Mapping[str, Json], common: Mapping[str, Json]) -> dict[str, Json]:
    """Return `set`, where settings differ from the common ones, and `unset`, the common keys that they lack."""
    changed = {k: v for k, v in settings.items() if k not in common or json.dumps(common[k]) != json.dumps(v)}
    return {"set": changed, "unset": [key for key in common if key not in settings]}


def run_data(record: Record, common: Mapping[str, Json], manifest: Mapping[str, Json]) -> dict[str, Json]:
    """Return one run. Scores: [task, metric, value, stderr, items, available, shots, version, higher is better]."""
    result, measured = record.result, record.measured
    known = {name: value for name, value in vars(measured).items() if value is None or isinstance(value, int | float)}
    return {
        "method": record.method,
        "label": record.label,
        "status": result.status,
        "message": result.message,
        "scores": [
            [
                s.task,
                s.metric,
                rounded(s.value, 6),
                None if s.stderr is None else rounded(s.stderr),
                s.num_items,
                s.num_available,
                s.num_fewshot,
                s.version,
                s.higher_is_better,
            ]
            for s in result.scores
        ],
        "loss": curve(result.losses),
        "validation": [[step, rounded(v) if isfinite(v) else None] for step, v in result.validation],
        "steps": len(result.losses),
        "plan": plan_rows(result.plans, result.config, len(result.losses)),
        "trained": result.trainable_parameters,
        "total": result.total_parameters,
        "tokens": result.tokens,
        "data": None if result.data is None else flat(shortened(vars(result.data))),
        "findings": flat(shortened(result.findings)),
        "memory": measured.peak_memory_bytes,
        "activations_over": measured.activations_over or "the first step",
        "times": {name: None if v is None else rounded(v) for name, v in known.items()},
        "unknown": measured.unknown,
        "config": difference(flat(result.config), common),
        "manifest": difference(flat(measured.manifest), manifest),
    }


def runs_data(records: Mapping[str, Record]) -> dict[str, Json]:
    """Return every run, and the settings and the manifest that most of them share."""
    common = shared(flat(record.result.config) for record in records.values())
    manifest = shared(flat(record.measured.manifest) for record in records.values())
    runs = {name: run_data(record, common, manifest) for name, record in sorted(records.items())}
    return {"config": common, "manifest": manifest, "runs": runs}


def harmless(data: Json) -> Json:
    """Return JSON data with every text, also a key, as one line without characters that a browser acts on."""
    if isinstance(data, str):
        return one_line(data)
    if isinstance(data, Mapping):
        return {one_line(str(key)): harmless(value) for key, value in data.items()}
    return [harmless(value) for value in data] if isinstance(data, list | tuple) else data


def script_json(data: Json) -> str:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(harmless(data), separators=(",", ":"), sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
