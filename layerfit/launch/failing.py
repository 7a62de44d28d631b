"""What the system refuses to the process of a sweep (a full disk, no permission) fails one run, with one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from layerfit.errors import UserError
from layerfit.files.os_errors import os_error_line
from layerfit.files.writing import clear_temporaries
from layerfit.launch.display import name_of
from layerfit.launch.queue import Queue, Queued
from layerfit.records.aside import KINDS


def say(queued: Queued, why: str) -> None:
    """Print what happened to a run that its record may not be able to tell."""
    print(f"layerfit: {name_of(queued.run)} ({queued.run_id}): {why}", file=sys.stderr, flush=True)


@contextmanager
def failing_alone(queued: Queued, fail: Callable[[], None]) -> Iterator[None]:
    """Inside, what keeps a run from being begun, watched or recorded is said in one line, then `fail` is called.

    The others go on. No record is written: there may be one that cannot be read at this moment.
    """
    try:
        yield
    except (OSError, UserError) as error:
        say(queued, os_error_line(error) if isinstance(error, OSError) else str(error))
        fail()


def look_up(queue: Queue) -> tuple[dict[str, Queued], dict[str, str]]:
    """Return the runs that are not done, by id, and how the others have ended; clear away what killed writers left.

    A run whose record the system does not let us read, or that a newer layerfit wrote, has failed: whether it is done
    is not known.
    """
    todo: dict[str, Queued] = {}
    ended: dict[str, str] = {}
    for run_id, queued in queue.runs.items():
        try:
            status = queued.first_status()
        except (OSError, UserError) as error:
            say(queued, os_error_line(error) if isinstance(error, OSError) else str(error))
            ended[run_id] = "failed"
            continue
        if queued.is_enough(status):
            ended[run_id] = status or ""
        else:
            todo[run_id] = queued
    for results in {queued.run.paths.results for queued in todo.values()}:
        for kind in KINDS:
            clear_temporaries(Path(results) / kind)
    return todo, ended
