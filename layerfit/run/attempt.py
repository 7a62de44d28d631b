"""One attempt at a run in this process: a run that was killed or interrupted takes several."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.models.hub import prepare_environment
from layerfit.run.history import History
from layerfit.run.track import NoTracker, Tracker, make_tracker


@dataclass
class Attempt:
    """A run with its id, its working folder, and what is known of it so far.

    identity: everything that decides the result (`config.identity_of`), taken once, before anything is read.
    """

    run: RunConfig
    run_id: str
    folder: Path
    identity: dict[str, Any]
    tracker: Tracker
    history: History = field(default_factory=History)


def begin(path: Path, *, writes: bool) -> Attempt:
    """Return an attempt at the run in a `run.json`, whose folder has the run's id for a name.

    writes: whether this process keeps what the run leaves; the others do not track it.
    """
    run = config.load(json.loads(path.read_text()))
    run_id, folder, identity = path.parent.name, path.parent, config.identity_of(run)
    prepare_environment(run.hub)  # before a tracker imports anything
    tracker = make_tracker(run, run_id, identity, folder) if writes else NoTracker()
    return Attempt(run, run_id, folder, identity, tracker)
