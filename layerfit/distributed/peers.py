"""The state of the other ranks: alive, failed (and why), or without a heartbeat.

A collective breaks without saying whose fault it was, or (NCCL, a host that is gone) does not break for minutes. So
every rank writes a heartbeat to a store that all can reach, and its final status when it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist

BEAT_S = 1.0
SILENT_S = 8.0
"""After a collective has broken, a rank without a heartbeat for this long is the cause."""
LOST_S = 45.0
"""Seconds without a heartbeat after which a rank is lost although no collective has broken; a busy rank is faster."""
GRACE_S = 15.0
"""Seconds in which a rank should notice by itself that another has failed, before its process is ended."""
BAD = ("failed", "oom")
"""Final statuses after which the other ranks cannot go on."""


@dataclass
class Peer:
    """Another rank. count: its last heartbeat; seen: when that arrived. status, why: its final status, '' before."""

    count: int = 0
    seen: float = field(default_factory=time.monotonic)
    status: str = ""
    why: str = ""

    def silent_s(self) -> float:
        """Return the seconds since its last heartbeat; 0 after its final status."""
        return 0.0 if self.status else time.monotonic() - self.seen


class Peers:
    """This rank among the others, over a connection of its own to their store.

    on_lost: called from another thread, with status and line, when this rank would wait for one that is gone.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, on_lost: Callable[[str, str], None]) -> None:
        self.store, self.rank, self.world, self.on_lost = store, rank, world, on_lost
        self.others = {r: Peer() for r in range(world) if r != rank}
        self._together = False
        self._count = 0
        self._done = threading.Event()
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(BEAT_S):
            if self._is_orphan():
                os._exit(1)  # the process that started this rank was killed: it must not train on unseen
            try:
                self._count += 1
                self.store.set(f"count/{self.rank}", str(self._count))
                for rank, peer in self.others.items():
                    self._look(rank, peer)
            except RuntimeError:  # the store is gone, and with it rank 0's host: nobody is seen, silence grows
                pass
            if self._together and (found := self._lost()):
                self.on_lost(*found)

    def _is_orphan(self) -> bool:
        starter = multiprocessing.parent_process()  # None if it was not our fork server (whose own parent stays alive)
        return os.getppid() != self._parent if starter is None else not starter.is_alive()

    def _look(self, rank: int, peer: Peer) -> None:
        if self.store.check([f"end/{rank}"]):
            if not peer.status:
                peer.seen = time.monotonic()
                peer.status, _, peer.why = self.store.get(f"end/{rank}").decode().partition(" ")
        elif self.store.check([f"count/{rank}"]) and (count := int(self.store.get(f"count/{rank}"))) != peer.count:
            peer.count, peer.seen = count, time.monotonic()

    def _lost(self) -> tuple[str, str] | None:
        """Return status and line of a rank that this one would wait for in vain, None if there is none."""
        overdue = any(p.status in BAD and time.monotonic() - p.seen > GRACE_S for p in self.others.values())
        return self.blame(LOST_S) if overdue else self._silent(LOST_S)

    def _silent(self, seconds: float) -> tuple[str, str] | None:
        for rank, peer in self.others.items():
            if peer.silent_s() > seconds:
                line = f"rank {rank} of {self.world} stopped without a final status: it was killed, or its host is gone"
                return "failed", f"{line}; the same command goes on from the last checkpoint"
        return None

    def blame(self, silent_s: float) -> tuple[str, str] | None:
        """Return status and line of another rank that has failed or been silent for `silent_s`; None if none has."""
        for rank, peer in self.others.items():
            if peer.status in BAD:
                return peer.status, f"rank {rank} of {self.world} failed: {peer.why}"
        return self._silent(silent_s)

    def find_cause(self) -> tuple[str, str] | None:
        """Return why a collective broke, None if every other rank is well; waits until a lost heartbeat shows."""
        until = time.monotonic() + SILENT_S + 3 * BEAT_S
        while (found := self.blame(SILENT_S)) is None and time.monotonic() < until:
            time.sleep(0.1)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, this rank waits for the others: one that is gone ends it."""
        self._together = True
        try:
            yield
        finally:
            self._together = False

    def wait_for(self, rank: int) -> str:
        """Return the status that another rank ends with, or `failed` if its heartbeat stops."""
        peer = self.others[rank]
        while not peer.status and peer.silent_s() < LOST_S:
            time.sleep(0.1)
        return peer.status or "failed"

    def leave(self, status: str, why: str | None = None) -> None:
        """Leave with a final status, and the reason of a failure. Rank 0, which may hold the store, leaves last."""
        self._done.set()
        self._thread.join()
        try:
            self.store.set(f"end/{self.rank}", f"{status} {why or ''}")
            until = time.monotonic() + SILENT_S
            while self.rank == 0 and self._anyone_here() and time.monotonic() < until:
                time.sleep(0.1)
        except RuntimeError:
            return  # nobody is left to read it

    def _anyone_here(self) -> bool:
        for rank, peer in self.others.items():
            self._look(rank, peer)
        return any(not peer.status for peer in self.others.values())


def connect(address: str, port: int, prefix: str) -> dist.Store:
    """Return a connection of its own to the store at an address."""
    client = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=30))
    return dist.PrefixStore(prefix, client)
