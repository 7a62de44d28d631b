"""Where a run can be watched: a JSON-lines file always, W&B as a mirror. Records, not trackers, make tables."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from layerfit.config.schema import RunConfig
from layerfit.files.secrets import hide_in
from layerfit.records.record import Record
from layerfit.run.failures import describe_error, say


class Tracker(Protocol):
    """Receives the events of a run."""

    def phase(self, name: str, total: int) -> None:
        """A phase of the run begins: `total` steps or tasks."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Values after `step` optimizer steps."""

    def note(self, text: str) -> None:
        """A line for whoever watches the run."""

    def finish(self, record: Record) -> None:
        """The record is written."""

    def close(self) -> None:
        """No more events follow."""


class JsonLines:
    """`metrics.jsonl`: one event a line, flushed at once; also what the progress display reads.

    A file that cannot be written (a full disk) is reported once and left: it must never cost a run.
    """

    def __init__(self, path: Path) -> None:
        self.file: TextIO | None = None
        try:
            self.file = path.open("a", buffering=1)
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        say(f"layerfit: metrics.jsonl ends here: {describe_error(error)}; the run goes on")
        file, self.file = self.file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _write(self, event: str, **values: Any) -> None:
        if self.file is None:
            return
        try:
            self.file.write(json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n")
        except OSError as error:
            self._leave(error)

    def phase(self, name: str, total: int) -> None:
        """Write a phase."""
        self._write("phase", name=name, total=total)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write values."""
        self._write("step", step=step, **values)

    def note(self, text: str) -> None:
        """Write a note."""
        self._write("note", text=text)

    def finish(self, record: Record) -> None:
        """Write the end."""
        self._write("finished", status=record.result.status)

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


class Wandb:
    """One W&B run per record: id = run_id, group = table. `offline` keeps it in the run's folder for `wandb sync`."""

    def __init__(self, run: RunConfig, run_id: str, config: dict[str, Any], folder: Path) -> None:
        import wandb

        tracker = run.tracker
        self.run = wandb.init(
            project=tracker.project,
            entity=tracker.entity,
            id=run_id,
            name=f"{run.method_name()}-{run.model.name}-{run.dataset.name}-s{run.seed}",
            group=tracker.group,
            job_type="train",
            config=hide_in(config),
            dir=str(folder),
            mode="offline" if tracker.mode == "offline" else "online",
            resume="allow" if tracker.mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("train/step")
        self.run.define_metric("train/*", step_metric="train/step")

    def phase(self, name: str, total: int) -> None:
        """W&B has no phases."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log under `train/`."""
        self.run.log({"train/step": step, **{f"train/{k}": v for k, v in values.items()}})

    def note(self, text: str) -> None:
        """W&B has no notes while a run goes on."""

    def finish(self, record: Record) -> None:
        """Put scores and cost into the summary: `eval/<task>/<metric>`."""
        summary: dict[str, Any] = {f"eval/{s.key}": s.value for s in record.result.scores}
        summary |= {"status": record.result.status, "train_seconds": record.measured.train_seconds}
        self.run.summary.update(summary)

    def close(self) -> None:
        """Finish the W&B run."""
        self.run.finish()


class NoTracker:
    """Ignores all events: for ranks that do not write."""

    def phase(self, name: str, total: int) -> None:
        """Ignore it."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def finish(self, record: Record) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Ignore it."""


class Several:
    """Passes events to several trackers; a mirror that fails is reported once and dropped, the run goes on."""

    def __init__(self, first: Tracker, *mirrors: Tracker) -> None:
        self.first, self.mirrors = first, list(mirrors)

    def _pass_on(self, name: str, *args: Any) -> None:
        getattr(self.first, name)(*args)
        for mirror in list(self.mirrors):
            try:
                getattr(mirror, name)(*args)
            except Exception as error:  # a mirror must never cost a run
                say(f"tracker {type(mirror).__name__} dropped: {error}", sys.stdout)
                self.mirrors.remove(mirror)

    def phase(self, name: str, total: int) -> None:
        """Pass it on."""
        self._pass_on("phase", name, total)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Pass it on."""
        self._pass_on("log", step, values)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._pass_on("note", text)

    def finish(self, record: Record) -> None:
        """Pass it on."""
        self._pass_on("finish", record)

    def close(self) -> None:
        """Pass it on."""
        self._pass_on("close")


def make_tracker(run: RunConfig, run_id: str, config: dict[str, Any], folder: Path) -> Tracker:
    """Return the run's tracker, for the rank that writes."""
    lines = JsonLines(folder / "metrics.jsonl")
    if run.tracker.name == "jsonl":
        return lines
    try:
        return Several(lines, Wandb(run, run_id, config, folder))
    except Exception as error:  # a mirror must never cost a run
        say(f"tracker Wandb dropped: {error}", sys.stdout)
        return lines
