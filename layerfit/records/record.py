"""Records: one JSON file per run, written once and atomically; tables are built from nothing else."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import stat
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from layerfit.errors import UserError
from layerfit.files.os_errors import os_error_line
from layerfit.files.paths import expand
from layerfit.files.secrets import hide_in
from layerfit.files.writing import write_atomically
from layerfit.records.shape import build, loads

SCHEMA = 3
"""Version of a record's JSON. Every change of its fields raises it, also an addition: an older layerfit must be able to
report that a record is too new for it. 2: the data card has the share of unknown tokens. 3: and what of the data was
not read as it stands; activations are the largest of all steps, and the record says so."""
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
    unread_columns: list[str] | None = None
    """Columns with content that nobody reads; null = not looked at (schemas 1 and 2), as the next."""
    dropped_turns: dict[str, int] | None = None
    """Turns and special tokens that were dropped or changed while the rows were read, by reason."""


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
    activations_over: str | None = None
    """The steps whose largest activations are recorded, `every step` (of this process); null = the first (schema 2)."""
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
"""Outcome of every item by score key, in the task's order; of scores that are means over items."""
ROUNDING = 1e-6
"""Outcomes are written with six decimals, so their mean may differ from the score by this much."""


class Broken(UserError):
    """A file that cannot be the record of its run: in a sweep it is set aside, and the run runs again. what: why."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: not a record: {what}; move it away and run again")
        self.path, self.what = path, what


class Newer(ValueError):
    """A record of a later version of layerfit: nothing is wrong with it."""


def id_of(identity: Any) -> str:
    """Return the run id of an identity (`config.identity_of`), ten hex digits."""
    return hashlib.blake2s(json.dumps(identity, sort_keys=True).encode(), digest_size=5).hexdigest()


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
    else:  # those of an attempt that was killed before it wrote its record
        _items_path(results, record.run_id).unlink(missing_ok=True)
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


def _from_2(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 did not say what of the data was not read, and recorded the activations of the first step."""
    result, card = data["result"], data["result"]["data"]
    card = card and {"unread_columns": None, "dropped_turns": None, **card}
    measured = {"activations_over": None, **data["measured"]}
    return {**data, "result": {**result, "data": card}, "measured": measured}


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
UPGRADES: Mapping[int, Upgrade] = {1: _from_1, 2: _from_2}
"""Schema -> upgrade to the next one: a committed record is never rewritten, it is upgraded when read."""


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """Return a record's JSON in the current schema.

    Raises:
        Newer: if its schema is newer than this version of layerfit.
        ValueError: if it is unknown.
    """
    found = data["schema"]
    if type(found) is int and found > SCHEMA:
        raise Newer(f"its schema is {found} and this layerfit reads up to {SCHEMA}; update layerfit")
    while data["schema"] != SCHEMA:
        if type(data["schema"]) is not int or data["schema"] not in UPGRADES:
            raise ValueError(f"schema {data['schema']!r}")
        data = {**UPGRADES[data["schema"]](data), "schema": data["schema"] + 1}
    return data


def parse(data: Any) -> Record:
    """Build a record from its JSON, of this schema or an older one.

    Raises:
        Newer: if it is of a newer schema.
        ValueError: if it is not a record; the message includes the fix.
    """
    try:
        return _parsed(data)
    except Newer:
        raise
    except ValueError as error:
        raise ValueError(f"not a record: {error}; move it away and run again") from error


def _parsed(data: Any) -> Record:
    try:
        record: Record = build(Record, upgraded(build(dict[str, Any], data)))
    except (KeyError, TypeError) as error:  # in an upgrade
        raise ValueError(_said(error)) from error
    if record.result.status not in STATUSES:
        raise ValueError(f"status {record.result.status!r}")
    return record


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def read(results: str | Path, run_id: str) -> Record | None:
    """Return the record of a run, None if there is none.

    Raises:
        Broken, UserError: as `read_whole`.
    """
    found = read_whole(results, run_id)
    return None if found is None else found[0]


def read_whole(results: str | Path, run_id: str) -> tuple[Record, Items] | None:
    """Return the record of a run and its items, None if there is none; every record is read here.

    Raises:
        Broken: if the file is not a record, is another run's, or contradicts itself or its items.
        UserError: if it is newer than this layerfit, or must not be read.
    """
    path = record_path(results, run_id)
    try:
        if (text := _bytes(path)) is None:
            return None
        record, items = _parsed(loads(text)), _items(_items_path(results, run_id))
        if (wrong := _contradiction(record, items, run_id)) is not None:
            raise ValueError(wrong)
    except UserError:
        raise
    except Newer as error:
        raise UserError(f"{path}: {error}") from error
    except ValueError as error:
        raise Broken(path, str(error)) from error
    return record, items


def _bytes(path: Path) -> bytes | None:
    """Return what a file holds, None if there is none.

    Raises:
        ValueError: if it is a folder, a pipe or a device.
        UserError: if it must not be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(os_error_line(error)) from error


def _items(path: Path) -> Items:
    if (packed := _bytes(path)) is None:
        return {}
    try:
        found: Items = build(Items, loads(gzip.decompress(packed)))
        return found
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"its items ({path.name}) cannot be read: {error}") from error


def _contradiction(record: Record, items: Items, run_id: str) -> str | None:
    """Return in what a record is not its run's own, or its scores not those of its items; None where all fits."""
    if record.run_id != run_id:
        return f"it is of run {record.run_id}"
    if (own := id_of(record.result.config)) != run_id:
        return f"its configuration is that of run {own}"
    scores = {score.key: score for score in record.result.scores}
    if len(scores) < len(record.result.scores):
        return "a score stands twice"
    if unknown := items.keys() - scores.keys():
        return f"its items are of {min(unknown)}, which it has no score of"
    if not items and any(score.stderr is not None for score in scores.values()):
        return "its items are missing"
    for key, outcomes in items.items():
        score = scores[key]
        if len(outcomes) != score.num_items:
            return f"{key} is of {score.num_items} items and there are {len(outcomes)}"
        mean = math.fsum(outcomes) / max(1, len(outcomes))
        if not math.isclose(mean, score.value, rel_tol=ROUNDING, abs_tol=ROUNDING):
            return f"{key} is {score.value:g} and the mean of its items {mean:g}"
    return None


def read_all(results: str | Path) -> dict[str, Record]:
    """Return every record of a folder by run id, in order of the ids.

    Raises:
        UserError: naming the file that is not a record.
    """
    names = sorted(path.stem for path in (Path(results) / "runs").glob("*.json"))
    return {name: record for name in names if (record := read(results, name)) is not None}


_LATER = ("unknown_token_share", "unread_columns", "dropped_turns")
"""Fields of a data card that older records lack."""


def same_result(recorded: Result, again: Result) -> bool:
    """Return whether a repeated run reproduced the recorded result.

    Findings and data card fields that the older version did not record are ignored.
    """
    findings = {key: value for key, value in again.findings.items() if key in recorded.findings}
    card = again.data
    if card is not None and recorded.data is not None:
        unknown: dict[str, Any] = {name: None for name in _LATER if getattr(recorded.data, name) is None}
        card = replace(card, **unknown)
    plain = [json.dumps(asdict(r), sort_keys=True) for r in (recorded, replace(again, findings=findings, data=card))]
    return plain[0] == plain[1]


def read_findings(path: str | Path, key: str = "method.ranking") -> dict[str, Any]:
    """Return the findings in a JSON file: a record, or an object of findings.

    key: the name of the path's setting, for messages.

    Raises:
        UserError: if it cannot be read, holds a number that is not finite, or is the record of a run that is not ok.
    """
    where = expand(key, str(path))
    try:
        if (text := _bytes(where)) is None:
            raise ValueError("it does not exist")
        found: dict[str, Any] = build(dict[str, Any], loads(text))
        if "schema" in found:
            found = upgraded(found)
        if "result" not in found:
            return found
        result = build(dict[str, Any], found["result"], "result")
        if (status := result.get("status", "ok")) != "ok":
            raise ValueError(f"its run ended as {status}")
        found = build(dict[str, Any], result.get("findings"), "result.findings")
        return found
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{key}={path} cannot be read as a file of findings: {_said(error)}") from error


def read_items(results: str | Path, run_id: str) -> Items:
    """Return the per-item outcomes of a run, {} if it has none."""
    found = read_whole(results, run_id)
    return {} if found is None else found[1]
