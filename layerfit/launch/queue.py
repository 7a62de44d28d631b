"""The runs of a sweep under their ids: which are done, which must come before which, what is wrong with them."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from layerfit import config
from layerfit.config.given import Given
from layerfit.config.schema import RunConfig
from layerfit.distributed.place import find_place, writes
from layerfit.errors import UserError
from layerfit.files.os_errors import os_error_line
from layerfit.methods.rankings import ranking_file
from layerfit.records import record
from layerfit.records.aside import sound
from layerfit.records.manifest import dirt, manifest

_TAIL = 2**16
"""Bytes at the end of a log that are looked at."""


@dataclass(frozen=True)
class Queued(Given):
    """A run under its id, which is computed once."""

    @property
    def folder(self) -> Path:
        """Return where its working files are."""
        return Path(self.run.paths.outputs) / self.run_id

    def status(self) -> str | None:
        """Return the status of its record, None if there is none; a broken one is set aside."""
        found = sound(self.run.paths.results, self.run_id, move=writes(find_place()))
        return None if found is None else found.result.status

    def first_status(self) -> str | None:
        """As `status`, before the run starts: what a broken record's run has left is set aside with it."""
        paths = self.run.paths
        found = sound(paths.results, self.run_id, paths.outputs, move=writes(find_place()))
        return None if found is None else found.result.status

    def is_done(self) -> bool:
        """Return whether it needs no more work: a diverged run is a result, a failed one is tried again.

        A run that is ok is run again if its weights are asked for and were not kept.
        """
        return self.is_enough(self.status())

    def is_enough(self, status: str | None) -> bool:
        """As `is_done`, with the status of its record."""
        if status != "ok" or self.run.save.weights == "none":
            return status in record.FINAL
        return any((self.folder / kind).is_dir() for kind in record.WEIGHT_FOLDERS)

    def write(self) -> Path:
        """Write the resolved run for the processes that execute it; return the file."""
        path = self.folder / "run.json"
        self.to_file(path)
        return path

    def forget_failure(self) -> None:
        """Remove the record of an earlier try that gave no result: it says nothing of the next one."""
        if self.status() not in record.FINAL:
            record.record_path(self.run.paths.results, self.run_id).unlink(missing_ok=True)

    def record_failure(self, message: str) -> None:
        """Record that it could not begin, or that its process left no record. A final record is never written again."""
        if self.status() in record.FINAL:  # it was to be run again for its weights
            return
        result = record.Result(self.identity or config.identity_of(self.run), "failed", message)
        measured = record.Measured(manifest=manifest("unknown", {}))
        failed = record.Record(self.run_id, self.run.method_name(), self.run.label, result, measured)
        record.write(failed, {}, self.run.paths.results)


def read_queued(path: Path) -> Queued:
    """Return the run that `Queued.write` wrote; its folder has its id for a name."""
    return Queued(**vars(config.from_file(path)))


@dataclass
class Queue:
    """Runs by id, in an order that puts required runs first. group: the tracker's, unless a run names another."""

    group: str
    runs: dict[str, Queued] = field(default_factory=dict)

    def add(self, run: RunConfig) -> str:
        """Add a run and the runs that it requires, each once; return its id."""
        identity = config.identity_of(run)
        run_id = record.id_of(identity)
        if run_id not in self.runs:
            needs = tuple(self.add(before) for before in config.required_runs(run))
            tracker = dataclasses.replace(run.tracker, group=run.tracker.group or self.group)
            self.runs[run_id] = Queued(dataclasses.replace(run, tracker=tracker), run_id, needs, identity)
        return run_id

    def todo(self) -> dict[str, Queued]:
        """Return the runs that are not done, by id; every record is read once, and a broken one is set aside."""
        return {run_id: one for run_id, one in self.runs.items() if not one.is_enough(one.first_status())}


def prepare(runs: list[RunConfig], *, here: bool = True) -> None:
    """Check every run before the first one starts, and set what must be set before heavy imports.

    here: they are executed on this machine, so its devices count.

    Raises:
        UserError: naming the first thing that is wrong.
    """
    from layerfit.launch.preflight import preflight
    from layerfit.models.hub import prepare_environment

    if any(run.hub != runs[0].hub for run in runs):
        raise UserError("one sweep cannot mix values of hub.*: the environment is set once")
    prepare_environment(runs[0].hub)
    seen = set()
    for run in runs:
        parts = repr((run.model, run.dataset, run.eval, run.engine, run.training, run.paths, run.save, run.tracker))
        parts += f"{run.method_name()} {ranking_file(run.method)}"
        if parts not in seen:
            seen.add(parts)
            preflight(run, here=here)
    if writes(find_place()) and (why := dirt()) is not None:
        print(f"warning: {why}; the records say so, and tables refuse them without --draft", file=sys.stderr)


def last_line(log: Path) -> str:
    """Return the line of a log where an error stands: its end may be long, binary, or a launcher's summary.

    That is the last one that layerfit itself has written, else the last one.
    """
    try:
        with log.open("rb") as file:
            file.seek(-min(_TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "it is empty"
    except OSError as error:
        return f"it cannot be read: {os_error_line(error)}"
    shown = ("".join(c for c in line if c.isprintable()).strip()[:200] for line in reversed(text.split("\n")))
    lines = [line for line in shown if line]
    own = (line.removeprefix("layerfit: ") for line in lines if line.startswith("layerfit: "))
    return next(own, lines[0] if lines else "it is empty")
