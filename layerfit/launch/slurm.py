"""The runs of a sweep as jobs: checked, put in order, submitted, watched until they are over."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from layerfit import config
from layerfit.config.launcher import SLURM, SUBMITIT_LOCAL, LauncherConfig
from layerfit.config.schema import RunConfig
from layerfit.errors import UserError
from layerfit.files.os_errors import os_error_line
from layerfit.installation import command_for
from layerfit.launch import slurm_queue
from layerfit.launch.display import Display, name_of
from layerfit.launch.failing import failing_alone, look_up
from layerfit.launch.processes import alone
from layerfit.launch.queue import Queue, Queued, last_line, prepare
from layerfit.launch.slurm_queue import Job

POLL_S = {SLURM: 20.0, SUBMITIT_LOCAL: 0.5}
"""Seconds between two calls of squeue, which loads a controller that all users share."""
GRACE_S = 60.0
"""How long a shared file system may hide the record of a job that is over."""


def run_all(runs: list[RunConfig], launcher: LauncherConfig, *, group: str) -> bool | None:
    """Run everything that has no record yet as jobs; return whether all are ok, None if they are not waited for.

    Raises:
        UserError: for a mistake in any of them, before the first one is submitted.
    """
    slurm_queue.check_here(launcher)
    queue = Queue(group)
    for run in runs:
        queue.add(placed(run, launcher))
    todo, ended = look_up(queue)
    if todo:
        prepare([queued.run for queued in todo.values()], here=launcher.name == SUBMITIT_LOCAL)
        submission = Submission(launcher, group, todo)
        submission.begin()
        if not launcher.wait:
            submission.say()
            return None
        watch(submission, Display(group, len(queue.runs), len(queue.runs) - len(todo)))
        ended |= look_up(queue)[1]
    return all(ended.get(run_id) == "ok" for run_id in queue.runs)


def placed(run: RunConfig, launcher: LauncherConfig) -> RunConfig:
    """Return a run with the ranks and the device that its job has.

    Raises:
        UserError: if they do not fit the run.
    """
    ranks, gpus, device = launcher.ranks(), launcher.gpus_per_node, run.engine.device
    where = f"hydra.launcher.nodes={launcher.nodes} x {launcher.ranks_per_node()} ranks a node"
    if run.engine.ranks not in (1, ranks):
        raise UserError(
            f"engine.ranks={run.engine.ranks} but {where} are {ranks}; drop engine.ranks, the launcher sets it"
        )
    if device == "cuda" and not gpus:
        raise UserError("engine.device=cuda but hydra.launcher.gpus_per_node=0; ask for GPUs, or set engine.device=cpu")
    if device != "cpu" and 0 < gpus < launcher.ranks_per_node():
        raise UserError(
            f"hydra.launcher.tasks_per_node={launcher.tasks_per_node} ranks need a GPU each, "
            f"hydra.launcher.gpus_per_node={gpus}; make them equal, or set engine.device=cpu"
        )
    if device == "auto" and gpus:
        device = "cuda"  # GPUs were asked for: a job that sees none must not train on the CPU
    made = dataclasses.replace(run, engine=dataclasses.replace(run.engine, ranks=ranks, device=device))
    try:
        config.check(made)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return made


def waves(todo: dict[str, Queued]) -> list[list[str]]:
    """Return run ids by when they can start: first those that need nothing unfinished, then those that need them."""
    out: list[list[str]] = []
    left = list(todo)
    while left:
        out.append([i for i in left if not set(todo[i].needs).intersection(left)])
        left = [i for i in left if i not in out[-1]]
    return out


@dataclass
class Submission:
    """The unfinished runs of a sweep, and the jobs that they have."""

    launcher: LauncherConfig
    group: str
    todo: dict[str, Queued]
    jobs: dict[str, Job] = field(default_factory=dict)
    """By run id; a job that is over is taken out."""
    batches: list[list[str]] = field(default_factory=list)
    """What is still to be submitted when the jobs before are over."""

    def begin(self) -> None:
        """Find the jobs of an earlier command and submit the rest; what this machine has no room for waits.

        Raises:
            UserError: if the cluster refuses, or does not say what it already has.
        """
        folder = self.folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"jobs have no folder: {os_error_line(error)}") from error
        with alone(folder):  # another command of the same sweep waits here, and then finds the jobs
            self._attach()
            for wave in waves(self.todo):
                new = [i for i in wave if i not in self.jobs]
                size = len(new) if self.launcher.name == SLURM else self.launcher.max_parallel or len(new)
                self.batches += [new[i : i + size] for i in range(0, len(new), max(1, size))]
            while self.batches and self.launcher.name == SLURM:
                self.submit_next()

    def _attach(self) -> None:
        known = {i: job for i, run in self.todo.items() if (job := slurm_queue.read_job(run.folder)) is not None}
        states = slurm_queue.states(list(known.values()))
        if states is None:
            raise UserError("squeue does not answer, so a job might be submitted twice; try again when it does")
        self.jobs = {i: job for i, job in known.items() if job.job_id in states}
        if self.jobs:
            print(f"{self.group}: {len(self.jobs)} runs have their job already: {self._ids()}", file=sys.stderr)

    def submit_next(self) -> None:
        """Submit the next batch; a cluster starts it when what it needs is over."""
        new = {i: self.todo[i] for i in self.batches.pop(0)}
        needed = {before for queued in new.values() for before in queued.needs}
        after = sorted(self.jobs[i].job_id for i in needed if i in self.jobs)
        name = f"layerfit-{self.group}"
        try:
            self.jobs |= slurm_queue.submit(new, self.launcher, self.folder(), name, after)
        except UserError as error:
            stay = f"; submitted before and still there: {self._ids()}" if self.jobs else ""
            raise UserError(f"{error}{stay}") from error

    def folder(self) -> Path:
        """Return where submitit keeps scripts and what jobs print outside their run."""
        return Path(next(iter(self.todo.values())).run.paths.outputs) / self.launcher.name

    def _ids(self) -> str:
        """Return the jobs' ids, an array by its one."""
        return " ".join(sorted({job.job_id.split("_")[0] for job in self.jobs.values()}))

    def say(self) -> None:
        """Print the jobs, where their logs are, and how to see their progress."""
        for run_id, job in self.jobs.items():
            queued = self.todo[run_id]
            print(f"{job.job_id:<12} {run_id}  {name_of(queued.run):<24} {queued.folder}/log.txt")
        print(f"{len(self.jobs)} jobs; scripts and what happens around a run: {self.folder()}")
        todo = "" if self.group in ("run", "sweep") else f"{command_for('todo', self.group)}, or "
        print(f"progress: {todo}the same command with hydra.launcher.wait=true")

    def leave(self) -> None:
        """Say that the jobs continue when the waiting command is interrupted."""
        if self.launcher.name == SLURM and self.jobs:
            print(
                f"\n{len(self.jobs)} jobs go on without you: {self._ids()}; the same command shows them again, "
                f"`scancel {self._ids()}` ends them",
                file=sys.stderr,
            )


def watch(submission: Submission, display: Display) -> None:
    """Show progress until all jobs are over; a job that ended without a record becomes a recorded failure."""
    poll_s, asked, gone = POLL_S[submission.launcher.name], float("-inf"), dict[str, float]()
    with display:
        try:
            while submission.jobs or submission.batches:
                if not submission.jobs:
                    submission.submit_next()
                if time.monotonic() - asked >= poll_s:
                    states = slurm_queue.states(list(submission.jobs.values()))
                    asked = time.monotonic()
                    if states is not None:
                        look(submission, states, display, gone)
                display.refresh()
                time.sleep(min(0.5, poll_s))
        except KeyboardInterrupt:
            submission.leave()
            raise


def look(submission: Submission, states: dict[str, str], display: Display, gone: dict[str, float]) -> None:
    """Take note of the runs that began or ended. gone: when a job was first not in the queue, by run id."""
    for run_id, job in list(submission.jobs.items()):
        queued, state = submission.todo[run_id], states.get(job.job_id)
        if state == slurm_queue.RUNNING and run_id not in display.cells:
            display.started(run_id, queued.run, queued.folder)
            display.cells[run_id].offset = 0  # it may have begun before anybody looked
        with failing_alone(queued, partial(_fail, submission, queued, display)):
            if queued.is_done() or (state is None and _is_over(queued, gone.setdefault(run_id, time.monotonic()))):
                ended = _ended(queued, job)
                del submission.jobs[run_id]
                display.finished(run_id, queued.run, ended)
    count = {
        s: sum(states.get(j.job_id) == s for j in submission.jobs.values())
        for s in (slurm_queue.PENDING, slurm_queue.RUNNING)
    }
    display.queued(", ".join(f"{number} {state}" for state, number in count.items() if number))


def _fail(submission: Submission, queued: Queued, display: Display) -> None:
    """Take note of a run whose record cannot be read or written from here; its job, if it has one, is let be."""
    submission.jobs.pop(queued.run_id)
    display.finished(queued.run_id, queued.run, "failed")


def _is_over(queued: Queued, since: float) -> bool:
    """Return whether a job that left the queue at `since` is over: it has a record, or has had time to write one."""
    results = Path(queued.run.paths.results) / "runs"
    if results.is_dir():
        next(results.iterdir(), None)  # a network file system looks again when a folder is opened
    return queued.status() is not None or time.monotonic() - since >= GRACE_S


def _ended(queued: Queued, job: Job) -> str:
    """Return how a run ended; record it if its job ended without a record of its own."""
    if (status := queued.status()) is not None:
        return status
    log = queued.folder / "log.txt"
    if not log.exists():  # it never began: what submitit and srun had to say
        log = Path(job.folder) / f"{job.job_id}_0_log.err"
    queued.record_failure(f"job {job.job_id} ended without a record; see {log}: {last_line(log)}")
    return "failed"
