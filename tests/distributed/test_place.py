"""Which rank a process is, by the words of srun, torchrun and DeepSpeed's launcher."""

import pytest

from layerfit.distributed.place import Place, find_place, first_host, writes
from layerfit.errors import UserError

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "n0", "MASTER_PORT": "1234"}
SRUN = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
SRUN |= {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[07-08]"}


def test_launchers():
    assert find_place(TORCHRUN) == Place(3, 4, 1, "n0", 1234)
    assert find_place(SRUN) == Place(5, 8, 1, "gpu07", 20000 + 12 * 64 + 3)
    assert find_place(SRUN | {"MASTER_ADDR": "ib0", "MASTER_PORT": "7"}) == Place(5, 8, 1, "ib0", 7)
    assert find_place(SRUN | TORCHRUN) == Place(3, 4, 1, "n0", 1234)  # torchrun started by srun, one a host


def test_every_rank_finds_the_same_meeting_place():
    places = [find_place(SRUN | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 4)}) for rank in range(8)]
    assert len({(place.address, place.port, place.world) for place in places}) == 1
    assert [place.rank for place in places] == list(range(8))
    assert [writes(place) for place in places] == [True] + [False] * 7
    assert find_place(SRUN | {"SLURM_STEP_ID": "4"}).port != places[0].port  # two steps of one job at once


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # in a batch script, outside srun
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_alone(environment):
    assert find_place(environment) is None
    assert writes(None)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (TORCHRUN | {"RANK": "4"}, "rank 4 of 4"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment should be a number"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "no MASTER_ADDR"),
        (TORCHRUN | {"MASTER_PORT": "99999999"}, "MASTER_PORT=99999999 in the environment should be at most 65,535"),
        (TORCHRUN | {"WORLD_SIZE": "9" * 400}, "should be a number"),
        (TORCHRUN | {"WORLD_SIZE": "65537"}, "at most 65,536"),
        (TORCHRUN | {"RANK": "-1"}, "RANK=-1 in the environment should be a number"),
        (TORCHRUN | {"LOCAL_RANK": "\u0661"}, "should be a number"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_LOCALID"}, r"SLURM_LOCALID=\(not set\)"),
        (SRUN | {"SLURM_STEP_NODELIST": ""}, "names no host"),
    ],
)
def test_contradictions_are_said_in_one_line(environment, message):
    with pytest.raises(UserError, match=message) as error:
        find_place(environment)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("gpu[07-12,15],login1", "gpu07"),
        ("login1,gpu[07-12]", "login1"),
        ("rack[3,5]-ib", "rack3-ib"),
        ("r[1-2]n[09-11]", "r1n09"),
    ],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def test_export_is_what_torch_reads():
    environment = {}
    Place(3, 4, 1, "n0", 1234).export(environment)
    assert environment == TORCHRUN
