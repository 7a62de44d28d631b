"""Seconds of forward, backward and update of every optimizer step: only when asked, as a GPU must be waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
PHASES = (FORWARD, BACKWARD, UPDATE)
"""The loss of all micro-batches; their gradients (of several ranks: summed); clipping and the optimizer's step.

Not in them: switching, probes, moving batches to the device, validation.
"""


class Phases:
    """A clock of its own for every phase of a step. `on` is false until somebody asks: then nothing is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on = device, False
        self.steps: list[dict[str, float]] = []
        """Seconds by phase of every optimizer step of this process."""

    def begin(self) -> None:
        """Begin an optimizer step."""
        if self.on:
            self.steps.append(dict.fromkeys(PHASES, 0.0))

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the seconds inside to a phase of the present step."""
        if not self.on:
            yield
            return
        start = self._now()
        yield
        self.steps[-1][phase] += self._now() - start

    def _now(self) -> float:
        """Return the time at which the device has done what was asked of it so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
