"""Jobs: how a run is handed to submitit, and whether its job still waits or runs.

States come from squeue, the controller's own and present view: accounting (sacct, which submitit asks) lags behind a
submission, and some clusters have none; a job that it does not know yet must not be submitted twice.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerfit.config.launcher import SLURM, LauncherConfig
from layerfit.errors import UserError
from layerfit.files.writing import write_atomically
from layerfit.launch.queue import Queued
from layerfit.launch.slurm_job import Task

PENDING, RUNNING = "pending", "running"
_WAITS = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
"""States of squeue(1) in which a job has not begun, or not begun again."""


@dataclass(frozen=True)
class Job:
    """A run's job, kept in `outputs/<run_id>/job.json`. folder: submitit's, with the script and what jobs print."""

    launcher: str
    job_id: str
    folder: str


def check_here(launcher: LauncherConfig) -> None:
    """Raise UserError if jobs cannot be submitted from this machine."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"hydra/launcher={launcher.name} needs the package submitit: pip install 'layerfit[slurm]'"
        ) from error
    missing = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    if launcher.name == SLURM and missing:
        raise UserError(
            f"hydra/launcher=slurm needs {missing[0]}, which is not on PATH: use a login node of the cluster, "
            "or hydra/launcher=local to run here"
        )


def read_job(folder: Path) -> Job | None:
    """Return the last job of a run, None if it never had one.

    Raises:
        UserError: if that cannot be known.
    """
    path = folder / "job.json"
    if not path.exists():
        return None
    try:
        job = Job(**json.loads(path.read_text()))
        if not all(isinstance(value, str) for value in asdict(job).values()):
            raise TypeError("its values are not all text")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a job ({said}); if none of this run is in the queue, move it away") from error
    return job


def states(jobs: list[Job]) -> dict[str, str] | None:
    """Return PENDING or RUNNING by job id; a job that is over is left out. None: the cluster did not answer."""
    of_slurm = [job for job in jobs if job.launcher == SLURM]
    queue = _squeue() if of_slurm else {}
    if queue is None:
        return None
    found = {job.job_id: queue[job.job_id] for job in of_slurm if job.job_id in queue}
    return found | {job.job_id: RUNNING for job in jobs if job.launcher != SLURM and _runs_here(job)}


def _squeue() -> dict[str, str] | None:
    command = ["squeue", "--noheader", "--array", "--format=%i|%T", f"--user={getpass.getuser()}"]
    try:
        text = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.strip().split("|") for line in text.splitlines() if "|" in line]
    return {job_id: PENDING if state in _WAITS else RUNNING for job_id, state, *_ in rows}


def _runs_here(job: Job) -> bool:
    """Return whether submitit's controller of a local job is alive: its process, not another with its number."""
    command = Path("/proc") / job.job_id / "cmdline"
    try:
        return str(Path(job.folder).absolute()).encode() in command.read_bytes()
    except OSError:
        return False


def submit(
    runs: dict[str, Queued], launcher: LauncherConfig, folder: Path, name: str, after: list[str]
) -> dict[str, Job]:
    """Submit runs as one array, to start once the jobs `after` are over; return each run's job, noted in its folder.

    Raises:
        UserError: with the message of sbatch, if it refuses.
    """
    tasks = [
        Task(str(_write(run).absolute()), list(sys.argv), launcher.name, launcher.requeue) for run in runs.values()
    ]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            submitted = _executor(launcher, folder, name, len(runs), after).submit_array(tasks)
    except Exception as error:  # submitit raises many kinds; the message of sbatch is in all of them
        raise UserError(f"hydra/launcher={launcher.name}: {' '.join(str(error).split())}") from error
    jobs = {run_id: Job(launcher.name, j.job_id, str(folder)) for run_id, j in zip(runs, submitted, strict=True)}
    for run_id, job in jobs.items():
        path = runs[run_id].folder / "job.json"
        write_atomically(path, (json.dumps(asdict(job), indent=1) + "\n").encode())
    return jobs


def _write(queued: Queued) -> Path:
    """Write the resolved run for its job, and forget how an earlier try ended; return the file."""
    queued.forget_failure()
    return queued.write()


def _executor(launcher: LauncherConfig, folder: Path, name: str, number: int, after: list[str]) -> Any:
    import submitit

    if launcher.name != SLURM:
        local = submitit.LocalExecutor(folder)
        local.update_parameters(
            timeout_min=launcher.minutes(),
            gpus_per_node=launcher.gpus_per_node,
            tasks_per_node=launcher.ranks_per_node(),
            signal_delay_s=launcher.signal_before_end_s,
            setup=launcher.setup,
        )
        return local
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**sbatch_options(launcher, name, number, after))
    return executor


def sbatch_options(launcher: LauncherConfig, name: str, number: int, after: list[str]) -> dict[str, Any]:
    """Return the options of an array of `number` jobs, as submitit's SlurmExecutor calls them."""
    options: dict[str, Any] = {
        "job_name": name,
        "time": launcher.minutes(),
        "nodes": launcher.nodes,
        "ntasks_per_node": launcher.ranks_per_node(),
        "gpus_per_node": launcher.gpus_per_node or None,
        "cpus_per_task": launcher.cpus_per_task,
        "mem": launcher.mem,
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "constraint": launcher.constraint,
        "signal_delay_s": launcher.signal_before_end_s,
        "array_parallelism": launcher.max_parallel or number,
        "setup": launcher.setup or None,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        "additional_parameters": {"requeue" if launcher.requeue else "no-requeue": True, **launcher.extra},
    }
    return {key: value for key, value in options.items() if value is not None}
