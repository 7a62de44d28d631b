"""What becomes of a run on this rank: its record, whatever it ends of. `python -m layerfit.run.worker RUN.json`."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.distributed import process
from layerfit.distributed.place import find_place, writes
from layerfit.errors import UserError
from layerfit.evaluation.judge.run import keep_judgments
from layerfit.models.hub import prepare_environment
from layerfit.records import record
from layerfit.records.manifest import manifest
from layerfit.records.record import Items, Measured, Record, Result
from layerfit.run import interrupt
from layerfit.run.execution import execute
from layerfit.run.interrupt import Interrupted
from layerfit.run.loop import Diverged, History
from layerfit.run.track import Silent, Tracker, make_tracker


def work(run: RunConfig, folder: Path) -> tuple[str, str | None]:
    """Execute a run on this rank; rank 0 alone writes the record. Whatever a run can die of becomes its status.

    Returns:
        Status and message, the same on every rank where rank 0 is there to tell.
    """
    run_id = config.run_id(run)
    prepare_environment(run.hub)
    keeps = writes(find_place())
    tracker = make_tracker(run, run_id, config.identity_of(run), folder) if keeps else Silent()
    history = History()

    def lost(status: str, line: str) -> None:
        if keeps:
            _keep(run, folder, (_ended(run, status, line, history), {}, _unmeasured(run)))
        process.say_and_exit(status, line)

    done = _outcome(run, run_id, folder, tracker, history, lost)
    process.leave_group()
    if done is None:
        peers = process.peers()
        assert peers is not None, "a rank that does not write is one of several"
        status = peers.wait_for(0)
        process.leave_peers(status)
        return status, "rank 0 has not finished the run; see its log" if status == "failed" else None
    status, message = done[0].status, done[0].message
    if keeps:
        tracker.finish(_keep(run, folder, done))
    process.leave_peers(status, message)
    tracker.close()
    return status, message


def _keep(run: RunConfig, folder: Path, done: tuple[Result, Items, Measured]) -> Record:
    """Write what there is to keep of a run. A record that is final is never written again."""
    result, items, measured = done
    run_id = config.run_id(run)
    kept = Record(run_id, run.method_name(), run.label, result, measured)
    before = record.read(run.paths.results, run_id)
    if before is None or before.result.status not in record.FINAL:
        if run.eval.judge.benchmarks and result.status == "ok":
            keep_judgments(folder, run.paths.results)
        record.write(kept, items, run.paths.results)
    if result.findings.get("ranking"):
        ranking = {"run_id": run_id, "model": run.model.name, "dataset": run.dataset.name, **result.findings["ranking"]}
        text = json.dumps(ranking, indent=1) + "\n"
        record.write_atomically(Path(run.paths.results) / "rankings" / f"{run_id}.json", text.encode())
    if result.status in record.FINAL:
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    return kept


def _outcome(
    run: RunConfig, run_id: str, folder: Path, tracker: Tracker, history: History, lost: Callable[[str, str], None]
) -> tuple[Result, Items, Measured] | None:
    """Return result, items and measurements; None on a rank that has done its part and does not write."""
    try:
        process.start(process.device_for(run.engine.device), run.engine.stage, run_id, lost)
        return execute(run, run_id, folder, tracker, history)
    except UserError as error:
        status, message = "failed", str(error)
    except Interrupted as error:
        status = "interrupted"
        message = f"stopped by {error} after {history.step} steps; the same command goes on from there"
    except Diverged as error:
        status, message = "diverged", str(error)
    except torch.OutOfMemoryError as error:
        status, message = "oom", str(error).splitlines()[0]
    except Exception as error:
        (folder / "error.txt").write_text(traceback.format_exc())
        own = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        status, message = _cause(error) or ("failed", own)
    return _ended(run, status, message, history), {}, _unmeasured(run)


def _cause(error: Exception) -> tuple[str, str] | None:
    """Return what another rank has done if `error` may be no more than a collective that broke."""
    peers = process.peers()
    return peers.find_cause() if peers is not None and isinstance(error, RuntimeError) else None


def _ended(run: RunConfig, status: str, message: str, history: History) -> Result:
    """Return the result of a run that is not ok: as far as it came."""
    return Result(
        config.identity_of(run),
        status,
        message,
        losses=history.losses,
        validation=history.validation,
        plans=history.plans,
        tokens=history.tokens or None,
    )


def _unmeasured(run: RunConfig) -> Measured:
    return Measured(manifest=manifest(process.describe_device(run.engine.device), {}))


def main(path: str) -> int:
    """Execute the run that the parent wrote to `path`, as the rank that the environment says: exit status."""
    with interrupt.listening():
        run = config.load(json.loads(Path(path).read_text()))
        status, message = work(run, Path(path).parent)
    if status not in record.FINAL:
        print(f"layerfit: {message or status}", file=sys.stderr)
    return record.EXIT_STATUS[status]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
