"""One attempt at a run in this process: a run that was killed or interrupted takes several."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerfit.config import from_file
from layerfit.config.schema import RunConfig
from layerfit.models.hub import prepare_environment
from layerfit.run.history import History
from layerfit.run.track import NoTracker, Tracker, make_tracker


@dataclass
class Attempt:
    """A run with its id, its working folder, and what is known of it so far.

    identity: everything that decides the result, as it was when the run was queued. needs: ids of the runs before it.
    """

    run: RunConfig
    run_id: str
    folder: Path
    identity: dict[str, Any]
    tracker: Tracker
    history: History = field(default_factory=History)
    needs: tuple[str, ...] = ()


def begin(path: Path, *, writes: bool) -> Attempt:
    """Return an attempt at the run in a `run.json`, whose folder has the run's id for a name.

    writes: whether this process keeps what the run leaves; the others do not track it.
    """
    given = from_file(path)
    prepare_environment(given.run.hub)  # before a tracker imports anything
    tracker = make_tracker(given.run, given.run_id, given.identity, path.parent) if writes else NoTracker()
    return Attempt(given.run, given.run_id, path.parent, given.identity, tracker, needs=given.needs)
