"""Process groups: joining, meeting the other ranks, leaving."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from layerfit.distributed.peers import Peers, connect
from layerfit.distributed.place import Place, find_place
from layerfit.errors import UserError

MEET_S = 300
"""How long ranks that were started separately wait for each other."""
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


@dataclass
class _Membership:
    """This process's membership; there is one group a process. alone: it is the only rank, and the environment says so.

    store: shared by all ranks; rank 0 holds it, longer than the group lasts.
    """

    peers: Peers | None = None
    store: dist.Store | None = None
    alone: bool = False


_state = _Membership()


def device_for(wanted: str) -> torch.device:
    """Return this rank's device; `auto` takes a GPU where there is one. A launcher may show each rank only its own."""
    use_cuda = torch.cuda.is_available() if wanted == "auto" else wanted == "cuda"
    if not use_cuda:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count()))


def say_and_exit(status: str, line: str) -> None:  # noqa: ARG001 - the signature of `on_lost`
    """End this process with one line: it would wait for a rank that is gone."""
    print(f"layerfit: {line}", file=sys.stderr, flush=True)
    os._exit(1)


def start(
    device: torch.device, stage: int | None, name: str = "", on_lost: Callable[[str, str], None] = say_and_exit
) -> None:
    """Join the process group: at the launcher's address (`place`), or alone and without a port.

    DeepSpeed on a CPU compiles a shared-memory op at first use and waits for ever on the lock of a compile that was
    killed; it is marked incompatible, gloo serves.

    Args:
        device: this rank's.
        stage: ZeRO's; None = no DeepSpeed, no group.
        name: a run's id; all ranks must give the same.
        on_lost: called from another thread with a status and a line when another rank is gone, instead of waiting
            for ever.

    Raises:
        UserError: if the ranks do not meet.
    """
    if stage is None:
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    place = find_place()
    if not dist.is_initialized():
        if place is None:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            place.export(os.environ)
            _state.store = _meet(place, name)
            store = dist.PrefixStore("group", _state.store)
            dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world)
            own = connect(place.address, place.port, f"peers/{name}")
            _state.peers = Peers(own, place.rank, place.world, on_lost)
    if place is None:
        _state.alone = True
        os.environ.update(_ALONE)  # DeepSpeed insists on them
    import deepspeed

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def _meet(place: Place, name: str) -> dist.Store:
    """Return the store of all ranks once all have arrived for the same run."""
    where = f"{place.address}:{place.port}"
    timeout = timedelta(seconds=MEET_S)
    try:
        store, _, _ = next(iter(dist.rendezvous("env://", timeout=timeout)))
        store = dist.PrefixStore(f"meet/{name}", store)
        store.set(f"here/{place.rank}", socket.gethostname())
        store.wait([f"here/{rank}" for rank in range(place.world)], timeout)
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"rank {place.rank} of {place.world} did not meet the others at {where} within {MEET_S} s: {said}; start "
            "every rank, with the same command; MASTER_ADDR and MASTER_PORT say where rank 0 waits"
        ) from error
    return store


def peers() -> Peers | None:
    """Return this rank's view of the others; None if it is alone."""
    return _state.peers


def together() -> AbstractContextManager[None]:
    """Inside, this rank waits for the others, if there are any: one that is gone ends it."""
    return nullcontext() if _state.peers is None else _state.peers.together()


def leave_group() -> None:
    """Leave the process group; a process started from this one must not take itself for one of its ranks."""
    if dist.is_initialized():
        import deepspeed

        deepspeed.comm.destroy_process_group()  # torch's, and what DeepSpeed remembers of it
    if _state.alone:
        _state.alone = False
        for name in _ALONE:
            os.environ.pop(name, None)


def leave_peers(status: str, why: str | None = None) -> None:
    """Tell the other ranks this one's final status."""
    if _state.peers is not None:
        _state.peers.leave(status, why)
        _state.peers = _state.store = None


def stop() -> None:
    """Leave group and ranks."""
    leave_group()
    leave_peers("ok")


def rank() -> int:
    """Return this process's rank; 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def describe_device(wanted: str) -> str:
    """Return the device's name: `cpu`, or the GPU's."""
    device = device_for(wanted)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
