"""Hundreds of cells in one sweep: what the process that watches them holds does not grow with those that have ended."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.small_runs import SMALL, environment

WATCH = r"""
import dataclasses, gc, json, multiprocessing, os, sys, time, tracemalloc
from pathlib import Path
from layerfit import config
from layerfit.launch import local
from layerfit.launch.display import Display
from layerfit.launch.processes import Started
from layerfit.launch.queue import Queued
from layerfit.records import record

MARKS = tuple(map(int, sys.argv[3].split(",")))
terminal, forks = sys.argv[1] == "terminal", sys.argv[2] == "forks"
with config.composer():
    run = config.compose(sys.argv[4:])
fork = multiprocessing.get_context("fork")

def text_of(queued):
    made = record.Record(queued.run_id, "m", "", record.Result(queued.identity, "ok", None), record.Measured())
    return json.dumps(dataclasses.asdict(made))

class Ended:
    exitcode = 0

    def is_alive(self):
        return False

    def terminate(self):
        pass

def work(queued):
    record.record_path(run.paths.results, queued.run_id).write_text(text_of(queued))
    (queued.folder / "metrics.jsonl").write_text('{"event": "phase", "name": "train", "total": 3}\n' * 20)

def start(queued, *_):
    queued.folder.mkdir(parents=True)
    if not forks:
        work(queued)
        return Started(queued, Ended())
    process = fork.Process(target=work, args=(queued,))
    process.start()
    return Started(queued, process)

Path(run.paths.results, "runs").mkdir(parents=True)
local.start, local.server, local.slots = start, lambda: None, lambda: [None] * 4
cells = [{"cell": i} for i in range(MARKS[-1])]
waiting = {(name := record.id_of(cell)): Queued(run, name, (), cell) for cell in cells}
sweep = local.Sweep(None, waiting, {})
sys.stderr = open(os.devnull, "w")
display, found = Display("many", MARKS[-1], 0), []
if terminal:
    import rich.console
    real = rich.console.Console
    rich.console.Console = lambda **_: real(file=sys.stderr, force_terminal=True, width=120)
if not terminal:
    tracemalloc.start()
with display:
    assert (display.progress is not None) == terminal
    while sweep.goes_on(display):
        if len(found) < len(MARKS) and len(sweep.ended) >= MARKS[len(found)] - 4:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files = len(os.listdir("/proc/self/fd"))
            alive = sum(isinstance(one, (Queued, Started)) for one in gc.get_objects())
            kept = alive - len(sweep.waiting) - 2 * len(sweep.running)
            found.append([tracemalloc.get_traced_memory()[0], pages * os.sysconf("SC_PAGE_SIZE"), files, kept])
        time.sleep(0.001 if forks else 0)
assert set(sweep.ended.values()) == {"ok"}
print(json.dumps(found))
"""


def watched(folder: Path, shown: str, made: str, marks: str) -> list[list[int]]:
    """Bytes of Python's objects, bytes of the process, open files, cells that ended and are held: after so many."""
    words = [sys.executable, "-c", WATCH, shown, made, marks, "method=full", *SMALL]
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_memory_does_not_grow_with_the_cells(tmp_path):
    """A cell that has ended leaves its name and status, 250 bytes; what is loaded or enlarged once does not count."""
    early, middle, late = watched(tmp_path, "lines", "stubs", "100,200,300")
    assert min(middle[0] - early[0], late[0] - middle[0]) < 100 * 600, (early, middle, late)
    assert early[3] == middle[3] == late[3] == 0
    assert early[2] == middle[2] == late[2]


@pytest.mark.slow
def test_nor_do_processes_and_their_files_stay(tmp_path):
    """On a terminal, with a process for every cell: the whole process, and what it has open."""
    early, middle, late = watched(tmp_path, "terminal", "forks", "100,300,600")
    assert late[1] - middle[1] < 300 * 8192, (early, middle, late)
    assert late[2] <= middle[2] + 8
