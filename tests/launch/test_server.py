"""The process that starts runs may be killed: each run is taken up again, a few times, and the sweep says so."""

import pytest

from layerfit import cli, config
from layerfit.launch import local, processes
from layerfit.launch.queue import last_line
from layerfit.records import record
from tests.helpers.small_runs import SMALL, results
from tests.helpers.stubs import Stub, composed, of_a_stub, stubs

__all__ = ["stubs"]
SWEEP = ["-m", "method=full,lora", *SMALL]
SAID = "the process that starts runs was killed; this run is taken up again"


class Unseen(Stub):
    """Nobody knows how it ended: its fork server is gone."""

    def exit_code(self) -> int:
        return processes.SERVER_LOST


def losing(monkeypatch, times: int) -> None:
    """The server is lost under the first runs that are started."""
    begun = []

    def start(queued, *rest):
        begun.append(of_a_stub(queued, *rest))
        return begun[-1] if len(begun) > times else Unseen(queued)

    monkeypatch.setattr(local, "start", start)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_run_whose_server_is_lost_is_taken_up_again(stubs, monkeypatch, capsys, times):
    losing(monkeypatch, times)
    assert cli.main(SWEEP) == 0
    assert capsys.readouterr().err.count(SAID) == times
    assert len(results(stubs)) == 2


def test_not_for_ever(stubs, monkeypatch, capsys):
    def start(queued, *rest):
        begun = of_a_stub(queued, *rest)
        return Unseen(queued) if queued.run.method_name() == "full" else begun

    monkeypatch.setattr(local, "start", start)
    assert cli.main(SWEEP) == 1
    assert capsys.readouterr().err.count(SAID) == local.MOST_LOST
    full, lora = (
        record.read("results", config.run_id(composed(f"method={m}", *SMALL))).result for m in ("full", "lora")
    )
    assert (full.status, lora.status) == ("failed", "ok")
    assert full.message.startswith("the worker ended with exit status 255; see ")


@pytest.mark.parametrize("error", [EOFError, ConnectionRefusedError, BrokenPipeError])
@pytest.mark.parametrize(("times", "status"), [(2, 0), (9, 1)])
def test_a_server_that_is_lost_when_a_run_begins(stubs, monkeypatch, capsys, error, times, status):
    tried = []

    def start(queued, *rest):
        if queued.run.method_name() == "lora" and len(tried) < times:
            tried.append(queued)
            raise error
        return of_a_stub(queued, *rest)

    monkeypatch.setattr(local, "start", start)
    assert cli.main(SWEEP) == status
    said = capsys.readouterr().err
    assert said.count("the process that starts runs was killed 3 times; out of memory?") == status
    assert len(results(stubs)) == 2 - status
    assert "Traceback" not in said


def test_a_worker_that_the_kernel_killed_is_said_to_be(stubs, monkeypatch, capsys):
    class Killed(Stub):
        def exit_code(self) -> int:
            return -9

    monkeypatch.setattr(local, "start", lambda queued, *rest: (of_a_stub(queued, *rest), Killed(queued))[1])
    assert cli.main(SWEEP) == 1
    for run_id in results(stubs):
        found = record.read("results", run_id).result
        log = stubs / "outputs" / run_id / "log.txt"
        assert found.message.startswith("the worker was killed (signal 9); out of memory?; see outputs/")
        assert found.message.endswith(last_line(log))
