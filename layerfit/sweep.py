"""Running many runs: what is finished is skipped, what is required comes first, a failure does not stop the rest."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from layerfit import config, record
from layerfit.display import Display
from layerfit.errors import UserError
from layerfit.launch import Started, is_done, server, start, status_of
from layerfit.manifest import manifest
from layerfit.schema import RunConfig


@dataclass
class Queue:
    """Runs by id, in an order that puts required runs first."""

    runs: dict[str, RunConfig] = field(default_factory=dict)
    needs: dict[str, str] = field(default_factory=dict)
    """Run id -> id of the run it requires."""

    def add(self, run: RunConfig, group: str) -> None:
        """Add a run and what it requires, each once."""
        run_id = config.run_id(run)
        if run_id in self.runs:
            return
        required = config.required_run(run)
        if required is not None:
            self.add(required, group)
            self.needs[run_id] = config.run_id(required)
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

    Raises:
        UserError: for a mistake in any of them, before the first one starts.
    """
    queue = Queue()
    for run in runs:
        queue.add(run, group)
    todo = {i: run for i, run in queue.runs.items() if not is_done(run)}
    if todo:
        _prepare(list(todo.values()))
        _work(queue, todo, Display(group, len(queue.runs), len(queue.runs) - len(todo)))
    return all(status_of(run) == "ok" and is_done(run) for run in queue.runs.values())


def _prepare(runs: list[RunConfig], *, here: bool = True) -> None:
    """Check every run before the first one starts, and set what must be set before heavy imports.

    here: they are executed on this machine, so its devices count.
    """
    from layerfit.hub import prepare_environment
    from layerfit.preflight import preflight

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


def _work(queue: Queue, todo: dict[str, RunConfig], display: Display) -> None:
    context = server()
    free, waiting = slots(), dict(todo)
    running: dict[str, tuple[Started, list[int | None]]] = {}
    with display:
        try:
            while waiting or running:
                for run_id in [i for i in waiting if queue.needs.get(i) not in {*waiting, *running}]:
                    run = waiting[run_id]
                    if not _required_ok(queue, run_id):
                        _record_failure(waiting.pop(run_id), f"its required run {queue.needs[run_id]} is not ok")
                        display.finished(run_id, run, "failed")
                    elif len(free) >= min(run.engine.ranks, len(slots_total(free, running))):
                        taken = [free.pop() for _ in range(min(run.engine.ranks, len(free)))]
                        gpus = [slot for slot in taken if slot is not None]
                        running[run_id] = start(waiting.pop(run_id), context, gpus), taken
                        display.started(run_id, run, running[run_id][0].folder)
                for run_id, (started, taken) in list(running.items()):
                    if (code := started.exit_code()) is not None:
                        free += taken
                        del running[run_id]
                        display.finished(run_id, started.run, _after(started, code))
                display.refresh()
                time.sleep(0.05)
        except BaseException:
            for started, _ in running.values():
                started.stop()
            raise


def slots_total(free: list[int | None], running: Mapping[str, tuple[object, list[int | None]]]) -> list[int | None]:
    """Return all slots, free or taken."""
    return free + [slot for _, taken in running.values() for slot in taken]


def _required_ok(queue: Queue, run_id: str) -> bool:
    needed = queue.needs.get(run_id)
    return needed is None or status_of(queue.runs[needed]) == "ok"


def _after(started: Started, code: int) -> str:
    """Return how a run ended; record it if its process ended without a record of its own."""
    status = status_of(started.run)
    if status is None:
        reason = f"signal {-code}" if code < 0 else f"exit status {code}"
        said = _last_line(started.folder / "log.txt")
        _record_failure(started.run, f"the worker ended with {reason}; see {started.folder}/log.txt: {said}")
        return "failed"
    again = code != 0 and status in record.FINAL  # for its weights, and in vain
    return f"failed; see {started.folder}/log.txt" if again else status


def _last_line(log: Path) -> str:
    """Return the last line of a worker's log, where an error stands."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it is empty")


def _record_failure(run: RunConfig, message: str) -> None:
    result = record.Result(config.identity(run), "failed", message)
    failed = record.Record(
        config.run_id(run), run.method_name(), run.label, result, record.Measured(manifest=manifest("unknown", {}))
    )
    record.write(failed, {}, run.paths.results)
