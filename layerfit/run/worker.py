"""One attempt on this rank: every end becomes a status and a record. `python -m layerfit.run.worker RUN.json`."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from types import TracebackType

import torch

from layerfit.distributed import process
from layerfit.distributed.place import find_place, writes
from layerfit.errors import UserError
from layerfit.evaluation.judge.run import keep_judgments
from layerfit.files.writing import write_atomically
from layerfit.records import record
from layerfit.records.manifest import manifest
from layerfit.records.record import Items, Measured, Record, Result
from layerfit.run import interrupt
from layerfit.run.attempt import Attempt, begin
from layerfit.run.execution import execute
from layerfit.run.interrupt import Interrupted
from layerfit.run.loop import Diverged


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
        match error:
            case UserError():
                found = "failed", str(error)
            case Interrupted():
                steps = self.attempt.history.step
                found = "interrupted", f"stopped by {error} after {steps} steps; the same command goes on from there"
            case Diverged():
                found = "diverged", str(error)
            case torch.OutOfMemoryError():
                found = "oom", str(error).splitlines()[0]
            case Exception():
                (self.attempt.folder / "error.txt").write_text(traceback.format_exc())
                own = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                found = _cause(error) or ("failed", own)
            case _:
                return False
        self._end(*found)
        return True

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
            keep(self)
        process.say_and_exit(status, line)


def _cause(error: Exception) -> tuple[str, str] | None:
    """Return how another rank has failed if `error` may be no more than a collective that broke."""
    peers = process.peers()
    return peers.find_cause() if peers is not None and isinstance(error, RuntimeError) else None


def keep(ending: Ending) -> Record:
    """Write the record of an attempt. A record that is final is never written again."""
    assert ending.done is not None
    attempt, run = ending.attempt, ending.attempt.run
    result, items, measured = ending.done
    kept = Record(attempt.run_id, run.method_name(), run.label, result, measured)
    before = record.read(run.paths.results, attempt.run_id)
    if before is None or before.result.status not in record.FINAL:
        if run.eval.judge.benchmarks and result.status == "ok":
            keep_judgments(attempt.folder, run.paths.results)
        record.write(kept, items, run.paths.results)
    if ranking := result.findings.get("ranking"):
        content = {"run_id": attempt.run_id, "model": run.model.name, "dataset": run.dataset.name, **ranking}
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(Path(run.paths.results) / "rankings" / f"{attempt.run_id}.json", text.encode())
    if result.status in record.FINAL:
        (attempt.folder / "checkpoint.pt").unlink(missing_ok=True)
    return kept


def settle(ending: Ending) -> tuple[str, str | None]:
    """Leave the other ranks and write the record; return status and message, the same on every rank."""
    process.leave_group()
    if ending.done is None:
        peers = process.peers()
        assert peers is not None, "a rank that does not write is one of several"
        status = peers.wait_for(0)
        process.leave_peers(status)
        return status, "rank 0 has not finished the run; see its log" if status == "failed" else None
    status, message = ending.done[0].status, ending.done[0].message
    if ending.keeps:
        ending.attempt.tracker.finish(keep(ending))
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
        print(f"layerfit: {message or status}", file=sys.stderr)
    return record.EXIT_STATUS[status]


def main(path: str) -> int:
    """Execute a run in a process of its own: stopped by a signal, it finishes its step."""
    with interrupt.listening():
        return work(Path(path))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
