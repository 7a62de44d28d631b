"""At least a thousand bad requests: each is one line that names the mistake, status 2, and nothing is written."""

from __future__ import annotations

import contextlib
import io
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest

from layerfit import cli, config, launch
from layerfit.launch.preflight import preflight
from tests.helpers.bad_requests import SEED, Bad, everything

CPU_S, WAIT_S = 20, 300
SAMPLE, ALL = 200, 2200


class Slow(BaseException):
    """Nothing in the program may catch it."""


def only_check(*_: object, **__: object):
    """In place of a launcher: look at every run as the launcher does before it starts one, and start none."""

    def launcher(runs):
        for run in runs:
            preflight(run)

    return launcher


@contextlib.contextmanager
def limited():
    """What computes for long is late, and so is what waits for ever; what waits for a busy machine is not."""

    def late(*_):
        raise Slow(f"more than {CPU_S} s of computing, or {WAIT_S} s of waiting")

    before = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(WAIT_S)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder to work in, Hydra initialised once, and no launcher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "a")
    monkeypatch.setattr(launch, "make_launcher", only_check)
    with config.composer():
        monkeypatch.setattr(config, "composer", nullcontext)
        yield tmp_path


def wrong_with(bad: Bad) -> str | None:
    """What the program does about a bad request that it should not do, None if all is well."""
    out, error = io.StringIO(), io.StringIO()
    try:
        with limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status = cli.main(list(bad.words))
    except (Exception, SystemExit, Slow) as raised:
        return f"{type(raised).__name__}: {raised}"
    lines = error.getvalue().splitlines()
    if status != 2:
        return f"status {status}, {lines}"
    if len(lines) != 1 or not lines[0].startswith("layerfit: ") or len(lines[0]) > 2000:
        return f"not one line: {lines}"
    if not any(name in lines[0] for name in bad.named):
        return f"names neither key nor value: {lines[0]}"
    written = [str(path) for path in Path().iterdir()]
    return f"wrote {written}" if written else None


def faults(requests: list[Bad]) -> list[str]:
    return [f"{bad} {bad.words[-1][:80]!r}: {why[:300]}" for bad in requests if (why := wrong_with(bad)) is not None]


def test_a_sample_is_refused(alone):
    found = faults(everything()[:SAMPLE])
    assert not found, "\n".join(found)


@pytest.mark.exhaustive
def test_more_than_a_thousand_are_refused(alone):
    requests = everything()
    assert len(requests) >= ALL, f"seed {SEED} leaves {len(requests)}"
    found = faults(requests[SAMPLE:ALL])
    assert not found, "\n".join(found)


def test_what_is_right_is_told_from_what_is_wrong(alone):
    """The test can fail: a request that is right is not refused."""
    assert wrong_with(Bad("none", ("method=lora",), ("method",))).startswith("status 0")
