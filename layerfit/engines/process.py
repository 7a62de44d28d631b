"""Process groups: who the ranks are, and how they talk."""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist

_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def device_for(wanted: str) -> torch.device:
    """Return this rank's device; `auto` takes a GPU where there is one."""
    use_cuda = torch.cuda.is_available() if wanted == "auto" else wanted == "cuda"
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if use_cuda else torch.device("cpu")


def start(device: torch.device, stage: int | None) -> None:
    """Join the process group: from the launcher's environment, or alone and without a port.

    DeepSpeed on a CPU compiles a shared-memory op at first use and waits for ever on the lock of a compile that was
    killed; it is marked incompatible, gloo serves.
    """
    if stage is None:
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    launched = "MASTER_ADDR" in os.environ
    if not dist.is_initialized():
        if launched:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not launched:
        os.environ.update(_ALONE)  # DeepSpeed insists on them
    import deepspeed

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def stop() -> None:
    """Leave the process group; a process started from this one must not take itself for one of its ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()
    if "MASTER_ADDR" not in os.environ:
        for name in _ALONE:
            os.environ.pop(name, None)


def rank() -> int:
    """Return this process's rank; 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def describe_device(wanted: str) -> str:
    """Return the device's name: `cpu`, or the GPU's."""
    device = device_for(wanted)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
