"""Sweeps whose processes are stubs that have ended, ok, when somebody looks."""

import copy
import functools

import pytest

from layerfit import config
from layerfit.config.schema import RunConfig
from layerfit.launch import local
from layerfit.launch.queue import Queued
from layerfit.records import record


def of_a_stub(queued: Queued, *_) -> "Stub":
    queued.forget_failure()
    queued.write()
    return Stub(queued)


class Stub:
    """A process that has ended, ok if its record could be written, when it is looked at."""

    def __init__(self, queued: Queued) -> None:
        self.queued = queued

    def exit_code(self) -> int:
        run = self.queued.run
        result = record.Result(self.queued.identity, "ok", None)
        made = record.Record(self.queued.run_id, "m", "", result, record.Measured())
        try:
            record.write(made, {}, run.paths.results)
        except OSError:
            return 1
        return 0

    def stop(self) -> None:
        """It has."""


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """Sweeps in this folder start nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "server", lambda: None)
    monkeypatch.setattr(local, "start", of_a_stub)
    monkeypatch.setattr(config, "compose", lambda words: copy.deepcopy(composed(*words)))
    return tmp_path


compose = config.compose


@functools.cache
def composed(*words: str) -> RunConfig:
    """Composing takes longer than the rest of these tests."""
    with config.composer():
        return compose(list(words))
