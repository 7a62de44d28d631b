"""Seconds of forward, backward and update in every optimizer step; off by default, as it synchronises the GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
PHASES = (FORWARD, BACKWARD, UPDATE)
"""The loss of all micro-batches; their gradients and the reduction over ranks; clipping and the optimizer's step.

Not included: switching, probes, moving batches to the device, validation.
"""


class Phases:
    """Timers for the phases of a step. While `on` is false nothing is timed or synchronised."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on = device, False
        self.steps: list[dict[str, float]] = []
        """Seconds by phase, one dictionary per optimizer step of this process."""

    def begin(self) -> None:
        """Start the record of a new optimizer step."""
        if self.on:
            self.steps.append(dict.fromkeys(PHASES, 0.0))

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the seconds inside the context to a phase of the current step."""
        if not self.on:
            yield
            return
        start = self._now()
        yield
        self.steps[-1][phase] += self._now() - start

    def _now(self) -> float:
        """Return the time after all work queued on the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
