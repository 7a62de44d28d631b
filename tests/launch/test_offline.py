"""With `hub.offline=true` a whole run opens no socket: composed, trained, evaluated, recorded, in every process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from layerfit.evaluation.lm_eval.tasks import PACKAGE
from layerfit.records import record
from tests.evaluation.test_command_line import MIRROR, needs_mirror

FORBID = """
import os, sys

def hook(event, args):
    local = event == "socket.connect" and not isinstance(args[1], tuple)  # the fork server's, a path
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto") and not local:
        with open(os.environ["SOCKETS"], "a") as file:
            file.write(f"{os.getpid()} {event} {args[1:] if event == 'socket.connect' else args}\\n")
        raise ConnectionRefusedError(f"{event} is forbidden here")

sys.addaudithook(hook)
"""
"""Python's own audit of whatever asks for a socket, in place before anything is imported, inherited by every fork."""


def start(tmp_path, *words):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FORBID)
    env = {key: value for key, value in os.environ.items() if not key.endswith("_OFFLINE")}  # conftest sets one
    env |= {"PYTHONPATH": f"{tmp_path / 'site'}:{PACKAGE.parent}", "SOCKETS": str(tmp_path / "sockets")}
    env |= {"HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "layerfit", "model=stories260k", "training.max_steps=2", "training.batch_size=4"]
    with (tmp_path / "log").open("w") as log:
        return subprocess.Popen(
            [*command, *words], cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True
        )


@needs_mirror
@pytest.mark.slow
def test_a_whole_run_opens_no_socket(tmp_path):
    """Three protocols of evaluation: log-likelihood with and without shots, generation, perplexity."""
    words = ["dataset=alpaca_gpt4", "eval=mirror_all", "eval.limit=2", f"hub.mirror={MIRROR}", "hub.offline=true"]
    assert start(tmp_path, *words).wait(timeout=300) == 0, (tmp_path / "log").read_text()[-2000:]
    assert not (tmp_path / "sockets").exists(), (tmp_path / "sockets").read_text()
    [path] = (tmp_path / "results" / "runs").glob("*.json")
    assert len(record.read(tmp_path / "results", path.stem).result.scores) > 14


@pytest.mark.slow
def test_the_forbidding_reaches_the_process_that_runs(tmp_path):
    """The same way of looking sees a run that may ask the network for its model; it is not waited for."""
    process, sockets = start(tmp_path, "dataset=nano", "eval=none", "hub.offline=false"), tmp_path / "sockets"
    try:
        until = time.monotonic() + 120
        while not sockets.exists() or not sockets.read_text().endswith("\n"):
            assert time.monotonic() < until, "nothing was asked for"
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    pid, event = sockets.read_text().split()[:2]
    assert event == "socket.getaddrinfo"
    assert int(pid) != process.pid  # the forked worker
