"""Runs on this machine: finished ones are skipped, required ones come first, a failure does not stop the rest."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.distributed.place import Place, find_place, writes
from layerfit.errors import UserError
from layerfit.launch.display import Display, make_display
from layerfit.launch.failing import failing_alone, look_up, say
from layerfit.launch.processes import SERVER_LOST, Started, log_path, server, start
from layerfit.launch.queue import Queue, Queued, last_line, prepare
from layerfit.records.record import EXIT_STATUS
from layerfit.run import interrupt

PAUSE_S = 0.05
MOST_LOST = 3
"""How often one run is begun again because the fork server was killed."""
Slot = int | None
"""Room for one process: a GPU by its number, or a core (None)."""


def slots() -> list[Slot]:
    """Return a slot for every GPU, or for every core on a machine without one."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=True
        ).stdout
        gpus: list[Slot] = list(range(len(listed.strip().splitlines())))
    except (OSError, subprocess.SubprocessError):
        gpus = []
    return gpus or [None] * max(1, len(os.sched_getaffinity(0)))


def run_all(runs: list[RunConfig], *, group: str) -> bool:
    """Run everything that has no record yet, on this machine; return whether all are ok.

    Started once per rank (srun, torchrun, deepspeed), every rank does this with the same runs, one after another.

    Raises:
        UserError: for a mistake in any of them, before the first one starts.
        Interrupted: if this process was asked to stop; the runs under way have left a checkpoint.
    """
    place = find_place()
    queue = Queue(group)
    for run in runs:
        queue.add(run if place is None else as_rank_of(run, place))
    todo, ended = look_up(queue)
    if todo:
        prepare([queued.run for queued in todo.values()])
        if place is None and (crowd := crowded([queued.run for queued in todo.values()])):
            print(f"warning: {crowd}", file=sys.stderr)
        sweep = Sweep(place, todo, ended)  # its fork server takes the environment that `prepare` has set
        display = make_display(group, len(queue.runs), len(queue.runs) - len(todo), place)
        with display, interrupt.listening(), sweep.stopping_all():
            while sweep.goes_on(display):
                time.sleep(PAUSE_S)
    return all(status == "ok" for status in ended.values())


def crowded(runs: list[RunConfig]) -> str | None:
    """Return that runs have more ranks than this machine has slots for, None if none has."""
    most = max(run.engine.ranks for run in runs)
    if most == 1 or most <= len(places := slots()):
        return None
    here = f"{len(places)} {'cores' if places[0] is None else 'GPUs'}"
    return f"engine.ranks={most} on {here}: the ranks take turns, which is slower than fewer of them"


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


@dataclass
class Sweep:
    """Runs under way. place: this process's, where ranks were started separately; ended: how runs ended, by id."""

    place: Place | None
    waiting: dict[str, Queued]
    ended: dict[str, str]
    running: dict[str, tuple[Started, list[Slot]]] = field(default_factory=dict)
    free: list[Slot] = field(default_factory=list)
    context: Any = None
    lost: Counter[str] = field(default_factory=Counter)
    """How often the fork server was killed under a run, or when it was to begin."""

    def __post_init__(self) -> None:
        self.context = server()
        self.free = [None] if self.place else slots()
        self.num_slots = len(self.free)

    def goes_on(self, display: Display) -> bool:
        """Start the runs that there is room for and take note of those that ended; False when none is left.

        Raises:
            Interrupted: if this process was asked to stop, after the runs under way have stopped.
        """
        open_runs = {*self.waiting, *self.running}
        for queued in [one for one in self.waiting.values() if open_runs.isdisjoint(one.needs)]:
            with failing_alone(queued, partial(self._fail, queued, display)):
                self._begin(queued, display)
        self._collect(display)
        display.refresh()
        if (name := interrupt.asked()) is not None:
            self._stop(display)
            raise interrupt.Interrupted(name)
        return bool(self.waiting or self.running)

    def _fail(self, queued: Queued, display: Display) -> None:
        """Take note of a run that the system does not let us begin or record."""
        self.waiting.pop(queued.run_id, None)
        self.ended[queued.run_id] = "failed"
        display.finished(queued.run_id, queued.run, "failed")

    def _begin(self, queued: Queued, display: Display) -> None:
        """Start a run if there is room for it; record it as failed if one that it needs is not ok."""
        run_id, wanted = queued.run_id, 1 if self.place else min(queued.run.engine.ranks, self.num_slots)
        if bad := [needed for needed in queued.needs if self.ended[needed] != "ok"]:
            if writes(self.place):
                queued.record_failure(f"its required run {bad[0]} is not ok")
            del self.waiting[run_id]
            self.ended[run_id] = "failed"
            display.finished(run_id, queued.run, "failed")
        elif len(self.free) >= wanted:
            taken = self.free[-wanted:]
            try:
                started = start(queued, self.context, [slot for slot in taken if slot is not None], self.place)
            except (EOFError, ConnectionError) as error:  # the fork server is gone: the next turn starts another
                self._lose_server(queued, error)
                return
            del self.waiting[run_id], self.free[-wanted:]
            self.running[run_id] = started, taken
            display.started(run_id, queued.run, queued.folder)

    def _lose_server(self, queued: Queued, error: Exception) -> None:
        """Take note that the fork server was gone when a run was to begin.

        Raises:
            OSError: if that has happened to this run too often.
        """
        self.lost[queued.run_id] += 1
        if self.lost[queued.run_id] > MOST_LOST:
            raise OSError(f"the process that starts runs was killed {MOST_LOST} times; out of memory?") from error

    @contextmanager
    def stopping_all(self) -> Iterator[None]:
        """Stop every run under way when the block is left, by an error too."""
        try:
            yield
        finally:
            for started, _ in self.running.values():
                started.stop()

    def _collect(self, display: Display) -> None:
        """Take note of the runs that have ended, and free their slots."""
        for run_id, (started, taken) in list(self.running.items()):
            if (code := started.exit_code()) is not None:
                self.free += taken
                del self.running[run_id]
                queued = started.queued
                if code == SERVER_LOST and self._take_up_again(started):
                    continue
                with failing_alone(queued, partial(self._fail, queued, display)):
                    self.ended[run_id], said = _after(queued, code, self.place)
                    if self.ended[run_id] != "ok" and not writes(self.place):
                        print(last_line(log_path(queued.folder, self.place)), file=sys.stderr)
                    display.finished(run_id, queued.run, said)

    def _take_up_again(self, started: Started) -> bool:
        """Put a run whose fork server was killed back among those that wait; return whether it may try again.

        Its own process goes on, unseen, and holds the lock of its folder: the next one waits, and finds it done. A rank
        has no lock and others that wait for it: it is ended.
        """
        queued = started.queued
        self.lost[queued.run_id] += 1
        if self.place is not None:
            started.kill_unseen()
        elif self.lost[queued.run_id] <= MOST_LOST:
            say(queued, "the process that starts runs was killed; this run is taken up again")
            self.waiting[queued.run_id] = queued
            return True
        return False

    def _stop(self, display: Display) -> None:
        """Ask all runs to stop and wait for their checkpoints; a second Ctrl-C ends them at once."""
        for started, _ in self.running.values():
            started.stop()
        print("stopping: each run finishes its step and saves it; Ctrl-C again does not wait", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            while self.running:
                self._collect(display)
                time.sleep(PAUSE_S)
        except KeyboardInterrupt:
            for started, _ in self.running.values():
                started.kill()
            raise


def _after(queued: Queued, code: int, place: Place | None) -> tuple[str, str]:
    """Return how a run ended and the words for it; record it if its process ended without a record of its own.

    A rank that does not write goes by the exit status alone: files of another host may be stale.
    """
    if not writes(place):
        ended = next((status for status, exit_status in EXIT_STATUS.items() if exit_status == code), "failed")
        return ended, ended
    status, log = queued.status(), log_path(queued.folder, place)
    if status is None and code == EXIT_STATUS["interrupted"]:  # before its turn came
        return "interrupted", "interrupted"
    if status is None:
        queued.record_failure(f"{_how(code)}; see {log}: {last_line(log)}")
        return "failed", "failed"
    if status == "ok" and code != 0:  # it was run again for its weights
        ended = "interrupted" if code == EXIT_STATUS["interrupted"] else "failed"
        return ended, f"{ended}; see {log}"
    return status, status


def _how(code: int) -> str:
    """Return how a process ended that left no record."""
    if code == -signal.SIGKILL:  # the kernel does so where memory ends; it does not say that it was the kernel
        return "the worker was killed (signal 9); out of memory?"
    return f"the worker ended with {f'signal {-code}' if code < 0 else f'exit status {code}'}"
