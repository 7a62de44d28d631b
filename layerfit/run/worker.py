"""One attempt on this rank: every end becomes a status and a record. `python -m layerfit.run.worker RUN.json`."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from layerfit.distributed import process
from layerfit.distributed.place import find_place, writes
from layerfit.errors import Diverged, UserError
from layerfit.evaluation.judge.run import keep_judgments
from layerfit.files.secrets import hide, hide_output
from layerfit.files.writing import write_atomically
from layerfit.records import record
from layerfit.records.aside import sound
from layerfit.records.manifest import manifest
from layerfit.records.record import Items, Measured, Record, Result
from layerfit.run import interrupt, resume
from layerfit.run.attempt import Attempt, begin
from layerfit.run.execution import execute
from layerfit.run.failures import describe_error, is_out_of_memory, say
from layerfit.run.interrupt import Interrupted
from layerfit.run.nulls import without_infinities

ASIDE = "kept"
"""Subfolder of a run's folder for a record that the folder of results did not take; copy its `runs/` there."""


class Ending:
    """How an attempt ends: inside it, every error that a run can have becomes a result with a status.

    done: result, items and measurements; None on a rank that has done its part and does not write.
    """

    def __init__(self, attempt: Attempt, *, keeps: bool) -> None:
        self.attempt, self.keeps = attempt, keeps
        self.done: tuple[Result, Items, Measured] | None = None

    def __enter__(self) -> Ending:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        if is_out_of_memory(error):
            traceback.clear_frames(trace)  # what they hold is needed to write a record
            self._end("oom", describe_error(error))
            return True
        match error:
            case UserError():
                found = "failed", str(error)
            case Interrupted():
                steps = self.attempt.history.step
                found = "interrupted", f"stopped by {error} after {steps} steps; the same command goes on from there"
            case Diverged():
                found = "diverged", str(error)
            case Exception():
                self._keep_traceback()
                found = _cause(error) or ("failed", describe_error(error))
            case _:
                return False
        self._end(*found)
        return True

    def _keep_traceback(self) -> None:
        """Write error.txt; where that cannot be written, the traceback goes to the log."""
        text = hide(traceback.format_exc())
        try:
            (self.attempt.folder / "error.txt").write_text(text, errors="backslashreplace")
        except OSError:
            say(text)

    def _end(self, status: str, message: str) -> None:
        """Make the result of a run that is not ok: with the history up to there."""
        attempt, history = self.attempt, self.attempt.history
        result = Result(
            attempt.identity,
            status,
            message,
            losses=history.losses,
            validation=history.validation,
            plans=history.plans,
            tokens=history.tokens or None,
        )
        device = process.describe_device(attempt.run.engine.device)
        self.done = result, {}, Measured(manifest=manifest(device, {}))

    def lost(self, status: str, line: str) -> None:
        """Keep what there is and end the process: it would wait for a rank that is gone (called from a thread)."""
        if self.keeps:
            self._end(status, line)
            kept_or_said(self)
        process.say_and_exit(status, line)


def _cause(error: Exception) -> tuple[str, str] | None:
    """Return how another rank has failed if `error` may be no more than a collective that broke."""
    peers = process.peers()
    return peers.find_cause() if peers is not None and isinstance(error, RuntimeError) else None


def keep(ending: Ending) -> Record:
    """Write the record of an attempt, after everything beside it: who finds a final one looks for nothing more.

    A record that is final is never written again.
    """
    assert ending.done is not None
    attempt, run = ending.attempt, ending.attempt.run
    result, items, measured = ending.done
    kept = without_infinities(Record(attempt.run_id, run.method_name(), run.label, result, measured))
    before = sound(run.paths.results, attempt.run_id)
    if ranking := result.findings.get("ranking"):  # before the record: a run with a record is complete
        content = {"run_id": attempt.run_id, "model": run.model.name, "dataset": run.dataset.name, **ranking}
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(Path(run.paths.results) / "rankings" / f"{attempt.run_id}.json", text.encode())
    if before is None or before.result.status not in record.FINAL:
        if run.eval.judge.benchmarks and result.status == "ok":
            keep_judgments(attempt.folder, run.paths.results)
        record.write(kept, items, run.paths.results)
    if result.status in record.FINAL:
        for left in (attempt.folder / resume.NAME, (attempt.folder / resume.NAME).with_suffix(".writing")):
            with suppress(OSError):
                left.unlink(missing_ok=True)
    return kept


def kept_or_said(ending: Ending) -> tuple[str, str | None]:
    """Write the record of an attempt, into the run's own folder if that of the results cannot be written.

    Returns:
        The status of the attempt and its message: `failed`, with what is kept where, if there is no record in results.
    """
    assert ending.done is not None
    attempt = ending.attempt
    result, items, measured = ending.done
    try:
        made = keep(ending)
    except OSError as error:
        folder = attempt.folder / ASIDE
        own = Record(attempt.run_id, attempt.run.method_name(), attempt.run.label, result, measured)
        try:
            kept = f"the record (status {result.status}) is in {record.write(without_infinities(own), items, folder)}"
        except OSError as again:
            kept = f"nor could one in {folder}: {describe_error(again)}"
        return "failed", f"no record could be written: {describe_error(error)}; {kept}"
    attempt.tracker.finish(made)
    return result.status, result.message


def settle(ending: Ending) -> tuple[str, str | None]:
    """Leave the other ranks and write the record; return status and message, the same on every rank."""
    process.leave_group()
    if ending.done is None:
        peers = process.peers()
        assert peers is not None, "a rank that does not write is one of several"
        status = peers.wait_for(0)
        process.leave_peers(status)
        return status, "rank 0 has not finished the run; see its log" if status == "failed" else None
    status, message = kept_or_said(ending) if ending.keeps else (ending.done[0].status, ending.done[0].message)
    process.leave_peers(status, message)
    ending.attempt.tracker.close()
    return status, message


def work(path: Path) -> int:
    """Execute the run in a `run.json` as the rank that the environment names; return the exit status.

    Rank 0 alone writes the record.
    """
    keeps = writes(find_place())
    attempt = begin(path, writes=keeps)
    run, ending = attempt.run, Ending(attempt, keeps=keeps)
    with ending:
        process.start(process.device_for(run.engine.device), run.engine.stage, attempt.run_id, ending.lost)
        ending.done = execute(attempt)
    status, message = settle(ending)
    if status not in record.FINAL:
        say(f"layerfit: {message or status}")
    return record.EXIT_STATUS[status]


def main(path: str) -> int:
    """Execute a run in a process of its own: stopped by a signal, it finishes its step."""
    hide_output()
    with interrupt.listening():
        return work(Path(path))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
