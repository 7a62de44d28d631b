"""Records: one JSON file per run, written once and atomically; tables are built from nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from layerfit.errors import UserError
from layerfit.files.secrets import hide_in
from layerfit.files.writing import write_atomically

SCHEMA = 2
"""Version of a record's JSON. Every change of its fields raises it, also an addition: an older layerfit must be able to
report that a record is too new for it. 2: the data card has the share of unknown tokens."""
STATUSES = ("ok", "diverged", "oom", "failed", "interrupted")
FINAL = ("ok", "diverged")
"""Statuses that are results; a run with another one is tried again."""
EXIT_STATUS = {"ok": 0, "failed": 1, "oom": 1, "diverged": 3, "interrupted": 75}
"""Exit status of a worker process by its run's status; 75 is BSD's EX_TEMPFAIL: try again."""
WEIGHT_FOLDERS = ("model", "adapter")
"""Subfolders of a run's folder for trained weights, where saving them is on."""


@dataclass(frozen=True)
class Score:
    """One metric of one task.

    num_items: items scored; num_available: items the task has. Fewer scored than available is a truncated evaluation.
    docs: hash over the items in order: two runs with equal hashes can be compared item by item.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    num_items: int
    num_available: int
    num_fewshot: int
    version: str
    higher_is_better: bool
    docs: str
    data_complete: bool = True
    """False where the data is known to be a subset of the published set."""

    @property
    def key(self) -> str:
        """`nano_facts/acc`: its key in a table's column."""
        return f"{self.task}/{self.metric}"


@dataclass(frozen=True)
class DataCard:
    """The training data: rows read, kept, dropped (by reason), and a hash.

    complete: whether the rows are the published ones (by pinned fingerprint, else by their number); null = not pinned.
    """

    rows: int
    kept: int
    dropped: dict[str, int]
    fingerprint: str
    complete: bool | None
    length_quantiles: dict[str, int]
    """Tokens per example at 0, 0.5, 0.9 and 1."""
    loss_token_share: float
    truncated: int = 0
    """Examples that lost tokens to `training.max_length`."""
    examples: int | None = None
    """Number of training examples: one per kept row, or the chunks that running text was cut into."""
    form: str | None = None
    template: str | None = None
    """Row format and prompt template in use, with `auto` resolved."""
    unknown_token_share: float | None = None
    """Share of the training tokens that are the unknown token; null = not counted (schema 1)."""


@dataclass(frozen=True)
class Result:
    """The part of a record that must be equal when a run is repeated, killed and resumed, or sharded."""

    config: dict[str, Any]
    """The run's identity (`config.identity`)."""
    status: str
    message: str | None = None
    scores: list[Score] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Training loss of every step, nats per target token."""
    validation: list[tuple[int, float]] = field(default_factory=list)
    """(steps taken, validation loss)."""
    plans: list[tuple[int, list[str]]] = field(default_factory=list)
    """(step, units): every change of plan."""
    trainable_parameters: int | None = None
    """Parameters that were in a plan at least once."""
    total_parameters: int | None = None
    tokens: int | None = None
    """Tokens seen in training, those of probe batches included, padding excluded."""
    data: DataCard | None = None
    findings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """The part that may differ between repetitions: times, memory, hardware. null = not known; reason in `unknown`."""

    train_seconds: float | None = None
    eval_seconds: float | None = None
    tokens_per_s: float | None = None
    step_seconds_median: float | None = None
    switch_seconds: float | None = None
    peak_memory_bytes: dict[str, int | None] = field(default_factory=dict)
    """weights, gradients, optimizer, activations, allocated, reserved."""
    gpu_seconds: float | None = None
    energy_joules: float | None = None
    tokens_per_step: float | None = None
    """Mean training tokens per optimizer step, without padding and probes."""
    forward_seconds: float | None = None
    """Medians over steps, as the next two; `layerfit.engines.phases` defines them."""
    backward_seconds: float | None = None
    update_seconds: float | None = None
    unknown: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A run's record."""

    run_id: str
    method: str
    label: str
    result: Result
    measured: Measured
    schema: int = SCHEMA


Items = dict[str, list[float]]
"""Outcome of every item by score key, in the task's order."""


def record_path(results: str | Path, run_id: str) -> Path:
    """Return the path of a run's record."""
    return Path(results) / "runs" / f"{run_id}.json"


def _items_path(results: str | Path, run_id: str) -> Path:
    return Path(results) / "runs" / f"{run_id}.items.json.gz"


def write(record: Record, items: Items, results: str | Path) -> Path:
    """Write the items, then the record: a record that can be read is complete."""
    compact = json.dumps({k: [round(x, 6) for x in v] for k, v in sorted(items.items())}, separators=(",", ":"))
    if items:
        write_atomically(_items_path(results, record.run_id), gzip.compress(compact.encode(), mtime=0))
    path = record_path(results, record.run_id)
    plain = json.loads(json.dumps(asdict(record), allow_nan=False))  # tuples become lists, keys strings
    write_atomically(path, (dumps(hide_in(plain)) + "\n").encode())
    return path


def dumps(value: Any, depth: int = 0) -> str:
    """Return JSON with one line per key, sorted, and one per list without objects: a curve does not fill pages.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    if not value or not _has_objects(value):
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    start, end = f"\n{' ' * (depth + 1)}", f"\n{' ' * depth}"
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {dumps(value[key], depth + 1)}" for key in sorted(value)]
        return f"{{{start}{f',{start}'.join(lines)}{end}}}"
    return f"[{start}{f',{start}'.join(dumps(item, depth + 1) for item in value)}{end}]"


def _has_objects(value: Any) -> bool:
    """Return whether a value is or contains an object."""
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_objects, value)))


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 did not count unknown tokens."""
    result, card = data["result"], data["result"]["data"]
    return {**data, "result": {**result, "data": card and {"unknown_token_share": None, **card}}}


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
UPGRADES: Mapping[int, Upgrade] = {1: _from_1}
"""Schema -> upgrade to the next one: a committed record is never rewritten, it is upgraded when read."""


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """Return a record's JSON in the current schema.

    Raises:
        ValueError: if its schema is newer than this version of layerfit, or unknown.
    """
    found = data["schema"]
    if isinstance(found, int) and found > SCHEMA:
        raise ValueError(f"its schema is {found} and this layerfit reads up to {SCHEMA}; update layerfit")
    while data["schema"] != SCHEMA:
        if data["schema"] not in UPGRADES:
            raise ValueError(f"not a record: schema {data['schema']!r}; move it away and run again")
        data = {**UPGRADES[data["schema"]](data), "schema": data["schema"] + 1}
    return data


def parse(data: dict[str, Any]) -> Record:
    """Build a record from its JSON, of this schema or an older one.

    Raises:
        ValueError: if it is not a record, or of a newer schema; the message includes the fix.
    """
    try:
        data = upgraded(data)
        result = dict(data["result"])
        result["scores"] = [Score(**s) for s in result["scores"]]
        result["data"] = DataCard(**result["data"]) if result["data"] else None
        result["validation"] = [(int(s), float(v)) for s, v in result["validation"]]
        result["plans"] = [(int(s), list(u)) for s, u in result["plans"]]
        rest = {k: v for k, v in data.items() if k not in ("result", "measured")}
        record = Record(result=Result(**result), measured=Measured(**data["measured"]), **rest)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a record: {error}; move it away and run again") from error
    if record.result.status not in STATUSES:
        raise ValueError(f"not a record: status {record.result.status!r}; move it away and run again")
    return record


def read(results: str | Path, run_id: str) -> Record | None:
    """Return the record of a run, None if there is none.

    Raises:
        UserError: if the file is not a record, or newer than this layerfit.
    """
    path = record_path(results, run_id)
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not a record: {error}; move it away and run again") from error
    try:
        return parse(data)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def read_all(results: str | Path) -> dict[str, Record]:
    """Return every record of a folder by run id, in order of the ids.

    Raises:
        UserError: naming the file that is not a record.
    """
    names = sorted(path.stem for path in (Path(results) / "runs").glob("*.json"))
    return {name: record for name in names if (record := read(results, name)) is not None}


def same_result(recorded: Result, again: Result) -> bool:
    """Return whether a repeated run reproduced the recorded result.

    Findings and data card fields that the older version did not record are ignored.
    """
    findings = {key: value for key, value in again.findings.items() if key in recorded.findings}
    card = again.data
    if card is not None and recorded.data is not None and recorded.data.unknown_token_share is None:
        card = replace(card, unknown_token_share=None)
    plain = [json.dumps(asdict(r), sort_keys=True) for r in (recorded, replace(again, findings=findings, data=card))]
    return plain[0] == plain[1]


def read_findings(path: str | Path) -> dict[str, Any]:
    """Return the findings in a JSON file: a record, or an object of findings.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        data = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a file of findings: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no findings: it is not a JSON object")
    return data.get("result", {}).get("findings", data)


def read_items(results: str | Path, run_id: str) -> Items:
    """Return the per-item outcomes of a run, {} if it has none."""
    path = _items_path(results, run_id)
    return json.loads(gzip.decompress(path.read_bytes())) if path.exists() else {}
