"""Which rank of a run this process is, as the launcher that started it says in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from layerfit.errors import LARGEST, MOST_RANKS, UserError

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The names that torchrun and DeepSpeed's launcher set, and that torch and DeepSpeed read."""
_FIRST_PORT, _PORTS = 20000, 20000
_MOST = {"MASTER_PORT": 65_535, "SLURM_JOB_ID": LARGEST, "SLURM_STEP_ID": 2**32 - 1}
"""Beyond these a variable is wrong; the others count ranks. SLURM's special steps have numbers near 2^32."""
_FIX = "start every rank with srun, torchrun or deepspeed, or unset RANK and WORLD_SIZE and use engine.ranks"


@dataclass(frozen=True)
class Place:
    """One rank among several that were started separately. address, port: where rank 0 waits for the others."""

    rank: int
    world: int
    local_rank: int
    address: str
    port: int

    def export(self, environment: MutableMapping[str, str]) -> None:
        """Set the variables that torch and DeepSpeed read."""
        values = (self.rank, self.local_rank, self.world, self.address, self.port)
        environment.update({name: str(value) for name, value in zip(VARIABLES, values, strict=True)})


def find_place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Return this process's place, None if it is alone.

    torchrun and DeepSpeed's launcher (hostfile) say it in full. SLURM's srun says rank and number of tasks; the
    address is the first host of the step, the port follows from the job's number. MASTER_ADDR and MASTER_PORT go first.

    Raises:
        UserError: if the variables contradict each other, or one is missing.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        place = _launched(environment)
    elif "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        place = _of_srun(environment)
    else:
        return None
    if not 0 <= place.rank < place.world:
        raise UserError(f"this process is said to be rank {place.rank} of {place.world}; {_FIX}")
    return place if place.world > 1 else None


def _number(environment: Mapping[str, str], name: str) -> int:
    text, most = environment.get(name, ""), _MOST.get(name, MOST_RANKS)
    if not re.fullmatch("[0-9]{1,12}", text):
        raise UserError(f"{name}={text or '(not set)'} in the environment should be a number; {_FIX}")
    if int(text) > most:
        raise UserError(f"{name}={text} in the environment should be at most {most:,}; {_FIX}")
    return int(text)


def _launched(environment: Mapping[str, str]) -> Place:
    world = _number(environment, "WORLD_SIZE")
    if world > 1 and "MASTER_ADDR" not in environment:
        raise UserError(f"WORLD_SIZE={world} in the environment and no MASTER_ADDR, where rank 0 waits; {_FIX}")
    return Place(
        rank=_number(environment, "RANK"),
        world=world,
        local_rank=_number({"LOCAL_RANK": "0", **environment}, "LOCAL_RANK"),
        address=environment.get("MASTER_ADDR", "localhost"),
        port=_number({"MASTER_PORT": "29500", **environment}, "MASTER_PORT"),
    )


def _of_srun(environment: Mapping[str, str]) -> Place:
    """Read a job step; the batch script itself has a task number too, but no step."""
    world = _number({"SLURM_STEP_NUM_TASKS": "1", **environment}, "SLURM_STEP_NUM_TASKS")
    if world == 1:
        return Place(0, 1, 0, "localhost", 0)
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    default = {"MASTER_ADDR": first_host(hosts), "MASTER_PORT": str(_FIRST_PORT + (job * 64 + step) % _PORTS)}
    return Place(
        rank=_number(environment, "SLURM_PROCID"),
        world=world,
        local_rank=_number(environment, "SLURM_LOCALID"),
        address=environment.get("MASTER_ADDR", default["MASTER_ADDR"]),
        port=_number({**default, **environment}, "MASTER_PORT"),
    )


def first_host(nodes: str) -> str:
    """Return the first host of SLURM's list: `gpu[07-12,15],login1` -> `gpu07` (slurm.conf(5), hostlist expressions).

    Raises:
        UserError: if it is empty.
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise UserError(f"SLURM_STEP_NODELIST={nodes!r} names no host; set MASTER_ADDR to the host of rank 0")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def writes(place: Place | None) -> bool:
    """Return whether a process writes the files of its run: it is alone, or rank 0."""
    return place is None or place.rank == 0
