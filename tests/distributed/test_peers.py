"""A rank notices that another is gone, or hears what it failed of."""

import time

import pytest
import torch.distributed as dist

from layerfit.distributed import peers
from layerfit.distributed.peers import Peers


@pytest.fixture
def store(monkeypatch):
    for name, seconds in (("BEAT_S", 0.02), ("SILENT_S", 0.3), ("LOST_S", 0.6), ("GRACE_S", 0.2)):
        monkeypatch.setattr(peers, name, seconds)
    return dist.HashStore()


def ignore(*said):
    """What a rank under no test does when it is lost."""


@pytest.fixture
def lost():
    return []


@pytest.fixture
def zero(store, lost):
    out = Peers(store, 0, 2, lambda status, line: lost.append((status, line)))
    yield out
    out.leave("ok")


def wait_until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def test_ranks_that_count_are_not_blamed(store, zero, lost):
    one = Peers(store, 1, 2, ignore)
    with zero.together():
        time.sleep(1.0)  # longer than any patience
        assert (zero.blame(peers.SILENT_S), lost) == (None, [])
    one.leave("ok")
    time.sleep(1.0)
    assert zero.blame(peers.SILENT_S) is None  # it has gone, and said so
    assert zero.wait_for(1) == "ok"


def test_a_failure_is_told_to_the_others(store, zero, lost):
    Peers(store, 1, 2, ignore).leave("oom", "CUDA out of memory. Tried to allocate 2 GiB")
    assert zero.find_cause() == ("oom", "rank 1 of 2 failed: CUDA out of memory. Tried to allocate 2 GiB")
    assert zero.wait_for(1) == "oom"
    with zero.together():  # stuck in a collective that does not break
        wait_until(lambda: lost)
    assert lost[0][0] == "oom"


def test_silence_is_noticed(store, zero, lost):
    store.set("count/1", "7")
    began = time.monotonic()
    status, line = zero.find_cause()
    assert (status, line[:45]) == ("failed", "rank 1 of 2 stopped without a final status: i")
    assert time.monotonic() - began < 0.5
    assert lost == []  # it waits for nobody
    with zero.together():
        wait_until(lambda: lost)
    assert zero.wait_for(1) == "failed"


def test_a_store_that_is_gone_is_a_rank_that_is_gone(store, zero, monkeypatch):
    def refuse(*args):
        raise dist.DistNetworkError("connection reset")

    monkeypatch.setattr(zero, "store", type("Gone", (), {"set": refuse, "check": refuse, "get": refuse})())
    assert "stopped without a final status" in zero.find_cause()[1]
