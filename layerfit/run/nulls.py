"""The last look at a record: no number in it is NaN or infinite.

A number that a run rests on (a loss, a score) ends the run as diverged where it is not finite. What is left is told
apart here: a standard error, a finding or a measurement that does not exist is null, with its reason.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from layerfit.records.record import Measured, Record

WHY = "it is not finite"


def _nulled(value: Any, path: str, lost: set[str]) -> Any:
    """Return a value of plain containers with null for what is not finite; the fields that had some are in `lost`."""
    if isinstance(value, float) and not math.isfinite(value):
        lost.add(path)
        return None
    if isinstance(value, dict):
        return {key: _nulled(one, f"{path}/{key}", lost) for key, one in value.items()}
    return [_nulled(one, path, lost) for one in value] if isinstance(value, list | tuple) else value


def without_infinities(record: Record) -> Record:
    """Return a record with null for every finding, standard error and measurement that is not finite, and why."""
    result, measured, lost = record.result, record.measured, set[str]()
    scores = [replace(s, stderr=_nulled(s.stderr, f"stderr/{s.key}", lost)) for s in result.scores]
    findings = _nulled(result.findings, "findings", lost)
    known = _nulled(asdict(measured), "", lost)
    if not lost:
        return record
    unknown = {**known["unknown"], **{path.removeprefix("/"): WHY for path in sorted(lost)}}
    return replace(
        record,
        result=replace(result, scores=scores, findings=findings),
        measured=Measured(**{**known, "unknown": unknown}),
    )
