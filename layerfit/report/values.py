"""The numbers of a record by key: scores of tasks, measurements and findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase

from layerfit.records.record import Items, Record, Score

MEAN = "mean:"
PARTS = ("weights", "gradients", "optimizer", "activations")
OF_ACTIVATIONS = ("measured/peak_bytes", "measured/activations_bytes")
"""Numbers that activations are part of."""


def peak_bytes(record: Record) -> float | None:
    """Return the peak memory of a run: from the allocator, else counted from the tensors, else None."""
    peak = record.measured.peak_memory_bytes
    if (allocated := peak.get("allocated")) is not None:
        return allocated
    parts = [peak.get(part) for part in PARTS]
    return None if None in parts else sum(part for part in parts if part is not None)


def is_of_first_step(record: Record, key: str = "measured/peak_bytes") -> bool:
    """Return whether a number of memory rests on activations that were counted in a run's first step alone.

    Those of another step can be larger: where the plan reaches lower, or the batch is longer.
    """
    measured = record.measured
    counted = key == "measured/activations_bytes" or measured.peak_memory_bytes.get("allocated") is None
    known = measured.peak_memory_bytes.get("activations") is not None
    return key in OF_ACTIVATIONS and counted and known and measured.activations_over is None


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
"""Numbers that a column can show beside scores and `findings/<name>`. None: not known."""
HIGHER_IS_BETTER = {"measured/tokens_per_s"}


def is_score(key: str) -> bool:
    """Return whether a key is a task's metric, whose items can be compared."""
    return key not in VALUES and not key.startswith("findings/")


def score_of(record: Record, key: str | None) -> Score | None:
    """Return a record's number by its key as a score; it has 0 items unless it is a task's.

    `*_facts/acc` is the first score whose key matches, for tables over several worlds.
    `mean:*_eight_?/acc` is the unweighted mean of all that match, the papers' `Avg.`.
    """
    if key is None:
        return None
    if key.startswith(MEAN):
        return _mean(_matching(record, key), key)
    if is_score(key):
        return next(iter(_matching(record, key)), None)
    kind, _, name = key.partition("/")
    value = record.result.findings.get(name) if kind == "findings" else VALUES[key](record)
    if not isinstance(value, int | float):
        return None
    return Score(kind, name, float(value), None, 0, 0, 0, "", key in HIGHER_IS_BETTER, "")


def items_of(record: Record, items: Items, key: str) -> list[float] | None:
    """Return the per-item outcomes whose mean is the score, None if some are missing.

    For an unweighted mean of tasks they are weighted by the tasks' numbers of items, so that their mean is the score.
    """
    scores = _matching(record, key)
    found = [items.get(score.key) for score in (scores if key.startswith(MEAN) else scores[:1])]
    outcomes = [one for one in found if one]
    if not outcomes or len(outcomes) < len(found):
        return None
    total = sum(map(len, outcomes))
    return (
        [x * total / (len(outcomes) * len(one)) for one in outcomes for x in one] if len(outcomes) > 1 else outcomes[0]
    )


def _matching(record: Record, key: str) -> list[Score]:
    pattern = key.removeprefix(MEAN)
    return [score for score in record.result.scores if score.key == pattern or fnmatchcase(score.key, pattern)]


def _mean(scores: list[Score], key: str) -> Score | None:
    """Return the unweighted mean of some scores as one score, None without any."""
    if not scores:
        return None
    first, errors = scores[0], [score.stderr for score in scores]
    known = [error for error in errors if error is not None]
    return replace(
        first,
        task=key.rpartition("/")[0],
        value=sum(score.value for score in scores) / len(scores),
        stderr=sum(e * e for e in known) ** 0.5 / len(scores) if len(known) == len(scores) else None,
        num_items=sum(score.num_items for score in scores),
        num_available=sum(score.num_available for score in scores),
        docs=" ".join(score.docs for score in scores),
        data_complete=all(score.data_complete for score in scores),
    )
