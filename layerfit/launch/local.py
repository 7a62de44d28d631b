"""Running many runs: what is finished is skipped, what is required comes first, a failure does not stop the rest."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.distributed.place import Place, find_place, writes
from layerfit.errors import UserError
from layerfit.launch.display import Display, make_display
from layerfit.launch.processes import Started, is_done, log_path, server, start, status_of
from layerfit.records import record
from layerfit.records.manifest import dirt, manifest
from layerfit.records.record import EXIT_STATUS
from layerfit.run import interrupt


@dataclass
class Queue:
    """Runs by id, in an order that puts required runs first."""

    runs: dict[str, RunConfig] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)
    """Run id -> ids of the runs it requires; those without any are left out."""

    def add(self, run: RunConfig, group: str) -> None:
        """Add a run and what it requires, each once."""
        run_id = config.run_id(run)
        if run_id in self.runs:
            return
        if required := config.required_runs(run):
            for before in required:
                self.add(before, group)
            self.needs[run_id] = [config.run_id(before) for before in required]
        tracker = dataclasses.replace(run.tracker, group=run.tracker.group or group)
        self.runs[run_id] = dataclasses.replace(run, tracker=tracker)


def slots() -> list[int | None]:
    """Return what runs can be placed on at once: GPUs if there are any, else cores (None)."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
        gpus: list[int | None] = list(range(len(listed.strip().splitlines())))
    except (OSError, subprocess.SubprocessError):
        gpus = []
    return gpus or [None] * max(1, len(os.sched_getaffinity(0)))


def run_cells(runs: list[RunConfig], *, group: str) -> bool:
    """Run everything that has no record yet; return whether all are ok.

    Started once per rank (srun, torchrun, deepspeed), every rank does this with the same runs, one after another.

    Raises:
        UserError: for a mistake in any of them, before the first one starts.
        Interrupted: if this process was asked to stop; what ran has left a checkpoint.
    """
    place = find_place()
    queue = Queue()
    for run in runs:
        queue.add(run if place is None else as_rank_of(run, place), group)
    todo = {i: run for i, run in queue.runs.items() if not is_done(run)}
    sweep = Sweep(queue, place, {i: status_of(run) or "" for i, run in queue.runs.items() if i not in todo})
    if todo:
        prepare(list(todo.values()))
        sweep.work(todo, make_display(group, len(queue.runs), len(queue.runs) - len(todo), place))
    return all(status == "ok" for status in sweep.ended.values())


def as_rank_of(run: RunConfig, place: Place) -> RunConfig:
    """Return the run with the number of ranks that were started.

    Raises:
        UserError: if it asks for another number, or cannot be had with that many.
    """
    if run.engine.ranks not in (1, place.world):
        raise UserError(f"engine.ranks={run.engine.ranks}, but {place.world} ranks were started; leave it out")
    run = dataclasses.replace(run, engine=dataclasses.replace(run.engine, ranks=place.world))
    config.check(run)
    return run


def prepare(runs: list[RunConfig], *, here: bool = True) -> None:
    """Check every run before the first one starts, and set what must be set before heavy imports.

    here: they are executed on this machine, so its devices count.
    """
    from layerfit.launch.preflight import preflight
    from layerfit.models.hub import prepare_environment

    if any(run.hub != runs[0].hub for run in runs):
        raise UserError("one sweep cannot mix values of hub.*: the environment is set once")
    prepare_environment(runs[0].hub)
    seen = set()
    for run in runs:
        parts = repr((run.model, run.dataset, run.eval, run.engine, run.training, run.paths, run.save, run.tracker))
        parts += f"{run.method_name()} {run.method.reads()}"
        if parts not in seen:
            seen.add(parts)
            preflight(run, here=here)
    if writes(find_place()) and (why := dirt()) is not None:
        print(f"warning: {why}; the records say so, and tables refuse them without --draft", file=sys.stderr)


@dataclass
class Sweep:
    """Runs under way. place: this process's, where ranks were started separately; ended: how runs ended, by id."""

    queue: Queue
    place: Place | None
    ended: dict[str, str]
    running: dict[str, tuple[Started, list[int | None]]] = field(default_factory=dict)

    def work(self, todo: dict[str, RunConfig], display: Display) -> None:
        """Run what is to do, as many at once as there is room for."""
        context = server()
        free: list[int | None] = [None] if self.place else slots()
        waiting = dict(todo)
        with display, interrupt.listening(), self._stopping_all():
            while waiting or self.running:
                open_runs = {*waiting, *self.running}
                for run_id in [i for i in waiting if open_runs.isdisjoint(self.queue.needs.get(i, []))]:
                    run, needed = waiting[run_id], self.queue.needs.get(run_id, [])
                    wanted = 1 if self.place else min(run.engine.ranks, len(slots_total(free, self.running)))
                    if bad := [i for i in needed if self.ended[i] != "ok"]:
                        if writes(self.place):
                            record_failure(run, f"its required run {bad[0]} is not ok")
                        display.finished(run_id, waiting.pop(run_id), self._end(run_id, "failed"))
                    elif len(free) >= wanted:
                        taken = [free.pop() for _ in range(wanted)]
                        gpus = [slot for slot in taken if slot is not None]
                        self.running[run_id] = start(waiting.pop(run_id), context, gpus, self.place), taken
                        display.started(run_id, run, self.running[run_id][0].folder)
                free += self._collect(display)
                display.refresh()
                if (name := interrupt.asked()) is not None:
                    self._stop(display)
                    raise interrupt.Interrupted(name)
                time.sleep(0.05)

    @contextmanager
    def _stopping_all(self) -> Iterator[None]:
        """Leave nothing running, whatever happens inside."""
        try:
            yield
        finally:
            for started, _ in self.running.values():
                started.stop()

    def _end(self, run_id: str, status: str) -> str:
        self.ended[run_id] = status
        return status

    def _collect(self, display: Display) -> list[int | None]:
        """Take note of the runs that have ended; return the places they leave."""
        free: list[int | None] = []
        for run_id, (started, taken) in list(self.running.items()):
            if (code := started.exit_code()) is not None:
                free += taken
                del self.running[run_id]
                status, said = _after(started, code, self.place)
                if status != "ok" and not writes(self.place):
                    print(last_line(log_path(started.folder, self.place)), file=sys.stderr)
                self._end(run_id, status)
                display.finished(run_id, started.run, said)
        return free

    def _stop(self, display: Display) -> None:
        """Ask what runs to stop, and wait for its checkpoints. Asked twice by the keyboard, do not wait."""
        for started, _ in self.running.values():
            started.stop()
        print("stopping: each run finishes its step and saves it; Ctrl-C again does not wait", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            while self.running:
                self._collect(display)
                time.sleep(0.05)
        except KeyboardInterrupt:
            for started, _ in self.running.values():
                started.kill()
            raise


def slots_total(free: list[int | None], running: Mapping[str, tuple[object, list[int | None]]]) -> list[int | None]:
    """Return all slots, free or taken."""
    return free + [slot for _, taken in running.values() for slot in taken]


def _after(started: Started, code: int, place: Place | None) -> tuple[str, str]:
    """Return how a run ended and what to say; record it if its process ended without a record of its own.

    A rank that does not write goes by the exit status alone: another host's files may be old news.
    """
    if not writes(place):
        ended = next((status for status, exit_status in EXIT_STATUS.items() if exit_status == code), "failed")
        return ended, ended
    status, log = status_of(started.run), log_path(started.folder, place)
    if status is None and code == EXIT_STATUS["interrupted"]:  # before its turn came
        return "interrupted", "interrupted"
    if status is None:
        reason = f"signal {-code}" if code < 0 else f"exit status {code}"
        record_failure(started.run, f"the worker ended with {reason}; see {log}: {last_line(log)}")
        return "failed", "failed"
    if status == "ok" and code != 0:  # it was run again for its weights
        ended = "interrupted" if code == EXIT_STATUS["interrupted"] else "failed"
        return ended, f"{ended}; see {log}"
    return status, status


def last_line(log: Path) -> str:
    """Return the last line of a worker's log, where an error stands."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it is empty")


def record_failure(run: RunConfig, message: str) -> None:
    """Record a run that could not begin, or whose process left no record."""
    result = record.Result(config.identity_of(run), "failed", message)
    failed = record.Record(
        config.run_id(run), run.method_name(), run.label, result, record.Measured(manifest=manifest("unknown", {}))
    )
    record.write(failed, {}, run.paths.results)
