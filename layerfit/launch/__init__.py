"""Many runs: checked before the first one starts, then started here or as cluster jobs, and watched."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from layerfit.config.launcher import LOCAL, LauncherConfig

if TYPE_CHECKING:
    from layerfit.config.schema import RunConfig

Launcher = Callable[["list[RunConfig]"], "bool | None"]
"""Runs everything that has no record yet; returns whether all are ok, None if they are not waited for."""


def make_launcher(launcher: LauncherConfig, *, group: str) -> Launcher:
    """Return the function that runs a sweep where `launcher` says. group: the sweep's name, of a table or `sweep`."""
    if launcher.name == LOCAL:
        from layerfit.launch import local

        return partial(local.run_all, group=group)
    from layerfit.launch import slurm

    return partial(slurm.run_all, launcher=launcher, group=group)
