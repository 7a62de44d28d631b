"""The schema of a launcher: where the runs of a sweep are executed. Nothing here enters a run's id."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from layerfit.errors import MOST_RANKS, UserError, check_one_of, check_range

LOCAL, SLURM, SUBMITIT_LOCAL = "local", "slurm", "submitit_local"
LAUNCHERS = (LOCAL, SLURM, SUBMITIT_LOCAL)
_N = "[0-9]{1,6}"
_DAYS = rf"(?P<days>{_N})-(?P<dh>{_N})(?::(?P<dm>{_N})(?::(?P<ds>{_N}))?)?"
_TIME = re.compile(rf"(?:{_DAYS})|(?P<clock>{_N}(?::{_N}){{0,2}})")
_MEM = re.compile(r"[0-9]{1,12}([KMGT]B?)?")


@dataclass
class LauncherConfig:
    """Resources and limits of the job of each run of a sweep. `hydra/launcher=NAME`, `hydra.launcher.KEY=VALUE`."""

    name: str = LOCAL
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    """Ranks per node; null = one per GPU, or one without GPUs."""
    cpus_per_task: int | None = None
    mem: str | None = None
    """Memory per node in SLURM's notation: 64GB; 0 = all of it."""
    time: str = "12:00:00"
    """Time limit in SLURM's notation: minutes, HH:MM:SS or D-HH:MM:SS."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    max_parallel: int | None = None
    """Jobs of one array that run at the same time; null = as many as the cluster allows."""
    signal_before_end_s: int = 120
    """Seconds before the time limit at which the run is signalled to checkpoint and exit."""
    requeue: bool = True
    """Requeue a run that was preempted or reached its time limit; it continues from its checkpoint."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the run: `module load cuda`."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further sbatch options by their long names: {exclude: node7}."""
    wait: bool = True
    """Wait for the jobs and show progress; false: submit and return."""

    def __post_init__(self) -> None:
        check_one_of("hydra/launcher", self.name, LAUNCHERS)
        check_range("hydra.launcher.nodes", self.nodes, 1, MOST_RANKS)
        check_range("hydra.launcher.gpus_per_node", self.gpus_per_node, 0, MOST_RANKS)
        for key in ("tasks_per_node", "cpus_per_task", "max_parallel"):
            if (value := getattr(self, key)) is not None:
                check_range(f"hydra.launcher.{key}", value, 1, MOST_RANKS)
        check_range("hydra.launcher.signal_before_end_s", self.signal_before_end_s, 1)
        if self.mem is not None and not _MEM.fullmatch(self.mem):
            raise UserError(f"hydra.launcher.mem={self.mem} is not a memory size of SLURM; write 64GB, or 0 for all")
        if listed := next((name for name, value in self.extra.items() if isinstance(value, dict | list)), None):
            raise UserError(f"hydra.launcher.extra.{listed} is not one value; write hydra.launcher.extra.exclude=node7")
        if self.signal_before_end_s >= 60 * self.minutes():
            raise UserError(
                f"hydra.launcher.signal_before_end_s={self.signal_before_end_s} is not before the end: "
                f"hydra.launcher.time={self.time} is {60 * self.minutes()} s"
            )
        if self.name == SUBMITIT_LOCAL and self.nodes > 1:
            raise UserError(
                f"hydra/launcher=submitit_local runs on one machine, but hydra.launcher.nodes={self.nodes}; use 1"
            )
        if self.name == SUBMITIT_LOCAL and not self.wait:
            raise UserError(
                "hydra/launcher=submitit_local starts jobs as others end, so it cannot return early; "
                "set hydra.launcher.wait=true"
            )

    def ranks_per_node(self) -> int:
        """Return the number of ranks on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    def ranks(self) -> int:
        """Return the number of ranks of a run."""
        return self.nodes * self.ranks_per_node()

    def minutes(self) -> int:
        """Return the time limit in minutes, rounded up.

        Raises:
            UserError: if it is not in SLURM's notation (sbatch(1), --time), or is zero.
        """
        found = _TIME.fullmatch(self.time.strip())
        if found is None:
            raise UserError(
                f"hydra.launcher.time={self.time} is not a time limit of SLURM; write minutes, HH:MM:SS or D-HH:MM:SS"
            )
        if found["days"] is not None:
            days, hours, minutes, seconds = (int(found[k] or 0) for k in ("days", "dh", "dm", "ds"))
        else:
            parts = [int(part) for part in found["clock"].split(":")]  # minutes, minutes:seconds, hours:min:sec
            days, (hours, minutes, seconds) = 0, ([0] * (len(parts) < 3) + parts + [0] * (len(parts) == 1))
        total = -(-(((days * 24 + hours) * 60 + minutes) * 60 + seconds) // 60)
        if total < 1:
            raise UserError(f"hydra.launcher.time={self.time} is zero; write minutes, HH:MM:SS or D-HH:MM:SS")
        return total
