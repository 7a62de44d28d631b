"""A rank ends with the process that started it: alone it would wait for the others for minutes, unseen."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import wait

_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.5


def end_with(starter: int) -> None:
    """Have this process killed when its parent ends, at once if that is no longer `starter`.

    To be called first: the imports of a rank alone take longer than a launcher may live.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_look, args=(starter,), daemon=True).start()
    if os.getppid() != starter:  # it ended before it was asked
        os._exit(1)


def _look(starter: int) -> None:
    while os.getppid() == starter:
        time.sleep(_LOOK_S)
    os._exit(1)


def end_with_sweep() -> None:
    """End this process, forked from the server of a sweep, when that sweep's own process ends."""
    sweep = multiprocessing.parent_process()
    assert sweep is not None, "a process that the fork server has made"
    threading.Thread(target=_outlive, args=(sweep.sentinel,), daemon=True).start()


def _outlive(sweep: int) -> None:
    wait([sweep])
    os._exit(1)
