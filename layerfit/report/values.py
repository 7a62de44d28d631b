"""The numbers of a record by their key: scores of tasks, and what a run measured or found."""

from __future__ import annotations

from collections.abc import Callable

from layerfit.record import Record, Score

PARTS = ("weights", "gradients", "optimizer", "activations")


def peak_bytes(record: Record) -> float | None:
    """Return the peak memory of a run: as the allocator says, else counted from the tensors, else None."""
    peak = record.measured.peak_memory_bytes
    if (allocated := peak.get("allocated")) is not None:
        return allocated
    parts = [peak.get(part) for part in PARTS]
    return None if None in parts else sum(part for part in parts if part is not None)


def _measured(name: str) -> Callable[[Record], float | None]:
    return lambda record: getattr(record.measured, name)


def _part(name: str) -> Callable[[Record], float | None]:
    return lambda record: record.measured.peak_memory_bytes.get(name)


VALUES: dict[str, Callable[[Record], float | None]] = {
    "measured/peak_bytes": peak_bytes,
    **{f"measured/{part}_bytes": _part(part) for part in PARTS},
    "measured/step_seconds": _measured("step_seconds_median"),
    "measured/forward_seconds": _measured("forward_seconds"),
    "measured/backward_seconds": _measured("backward_seconds"),
    "measured/update_seconds": _measured("update_seconds"),
    "measured/train_seconds": _measured("train_seconds"),
    "measured/tokens_per_s": _measured("tokens_per_s"),
    "validation/loss": lambda record: record.result.validation[-1][1] if record.result.validation else None,
    "result/trainable_parameters": lambda record: record.result.trainable_parameters,
    "result/tokens": lambda record: record.result.tokens,
}
"""What a column can show beside scores; `findings/<name>` as well. None: the run does not know."""
HIGHER_IS_BETTER = {"measured/tokens_per_s"}


def is_score(key: str) -> bool:
    """Return whether a key names a task's metric, which rests on items that can be compared."""
    return key not in VALUES and not key.startswith("findings/")


def score_of(record: Record, key: str | None) -> Score | None:
    """Return a record's number by its key; one that is no task's score rests on 0 items.

    `*_facts/acc` is the first score whose key ends so: what tables over several worlds have in common.
    """
    if key is None:
        return None
    if is_score(key):
        if key.startswith("*"):
            return next((score for score in record.result.scores if score.key.endswith(key[1:])), None)
        return next((score for score in record.result.scores if score.key == key), None)
    kind, _, name = key.partition("/")
    value = record.result.findings.get(name) if kind == "findings" else VALUES[key](record)
    if not isinstance(value, int | float):
        return None
    return Score(kind, name, float(value), None, 0, 0, 0, "", key in HIGHER_IS_BETTER, "")
