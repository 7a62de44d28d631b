"""Progress of a sweep: the runs under way, their loss, and the time left."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerfit.config.schema import RunConfig
from layerfit.distributed.place import Place, writes
from layerfit.files.shown import one_line

PHASE_START = {"load": 0.0, "train": 0.1, "evaluate": 0.85}
"""Share of a run's time behind it when a phase begins; a guess for the bar only."""


@dataclass
class Progress:
    """Progress of one run under way, read from its metrics file."""

    name: str
    metrics: Path
    offset: int
    began: float
    phase: str = "start"
    total: int = 1
    step: int = 0
    loss: float | None = None
    notes: list[str] = field(default_factory=list)
    """Lines of the run that have not been shown yet."""

    def read(self) -> None:
        """Read what has been written since the last look. What cannot be read shows nothing: it is for the eye only."""
        with suppress(OSError), self.metrics.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.offset += len(line)
                with suppress(ValueError, RecursionError):  # broken by a crash, or not a run's line at all
                    self._take(json.loads(line))

    def _take(self, event: Any) -> None:
        match event:
            case {"event": "phase", "name": str(name), "total": int(total)}:
                self.phase, self.total, self.step = name[:20], max(1, total), 0
            case {"event": "step", "step": int(step), "loss": float(loss) | int(loss)}:
                self.step, self.loss = min(max(0, step), self.total), float(loss)
            case {"event": "note", "text": str(text)}:
                self.notes.append(one_line(text))

    def share(self) -> float:
        """Return the share of the run that is done, roughly."""
        begin = PHASE_START.get(self.phase, 0.0)
        return begin + 0.75 * self.step / self.total if self.phase == "train" else begin

    def describe(self) -> str:
        """Return `lora s0  train 40/80  loss 2.31`."""
        step = f" {self.step}/{self.total}" if self.phase == "train" else ""
        loss = f"  loss {self.loss:.3f}" if self.loss is not None else ""
        return f"{self.phase}{step}{loss}"


def name_of(run: RunConfig) -> str:
    """Return a run's name on screen: its label or method, and its seed."""
    return one_line(f"{run.label or run.method_name()} s{run.seed}")


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 if it is not there."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


class Display:
    """A progress display on a terminal; one line per finished run elsewhere."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self.cells: dict[str, Progress] = {}
        self.bars: dict[str, Any] = {}
        self.began = time.time()
        self.progress: Any = None
        self.note = ""

    def __enter__(self) -> Display:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        print(f"{self.title}: {self.total} runs, {self.done} done, {self.total - self.done} to do", file=sys.stderr)
        console = Console(stderr=True)
        if console.is_terminal:
            name = TextColumn("{task.description:<24}", markup=False)
            state = TextColumn("{task.fields[state]}", markup=False)
            columns = [name, BarColumn(bar_width=24), TimeElapsedColumn(), state]
            self.progress = Bars(*columns, console=console, transient=True)
            self.progress.start()
            self.bars["all"] = self.progress.add_task(self.title, total=self.total - self.done, state="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def started(self, run_id: str, run: RunConfig, folder: Path) -> None:
        """Show a run that begins."""
        metrics = folder / "metrics.jsonl"
        self.cells[run_id] = Progress(name_of(run), metrics, _size(metrics), time.time())
        if self.progress is not None:
            self.bars[run_id] = self.progress.add_task(f"  {name_of(run)}", total=1.0, state="")

    def finished(self, run_id: str, run: RunConfig, status: str) -> None:
        """Show how a run has ended."""
        self._show_notes()
        self.done += 1
        cell = self.cells.pop(run_id, None)
        seconds = f"{time.time() - cell.began:.0f} s" if cell else "-"
        self._print(f"[{self.done}/{self.total}] {name_of(run):<24} {status:<8} {seconds:>6}  {run_id}")
        if run_id in self.bars:
            self.progress.remove_task(self.bars.pop(run_id))

    def _print(self, line: str) -> None:
        if self.progress is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self.progress.console.print(line, highlight=False, markup=False)

    def _show_notes(self) -> None:
        """Read what the runs under way have written, and print their notes."""
        for cell in self.cells.values():
            cell.read()
            for text in cell.notes:
                self._print(f"{cell.name}: {text}")
            cell.notes.clear()

    def queued(self, note: str) -> None:
        """Show the state of a cluster's queue: `3 pending, 2 running`."""
        if self.progress is None and note and note != self.note:
            print(f"{self.title}: {note}", file=sys.stderr, flush=True)
        self.note = note

    def refresh(self) -> None:
        """Show the progress of the runs under way."""
        self._show_notes()
        if self.progress is None:
            return
        finished = self.progress.tasks[0].total - (self.total - self.done)
        share = finished + sum(cell.share() for cell in self.cells.values())
        self.progress.update(self.bars["all"], completed=share, state=f"{self._remaining(share)}  {self.note}")
        for run_id, cell in self.cells.items():
            self.progress.update(self.bars[run_id], completed=cell.share(), state=cell.describe())

    def _remaining(self, share: float) -> str:
        """Return the time left, by the pace so far."""
        total = self.progress.tasks[0].total
        if share < 0.5:
            return f"{self.total - self.done} to go"
        left = (time.time() - self.began) / share * (total - share)
        return f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"


class NoDisplay(Display):
    """Shows nothing: for ranks that do not write."""

    def __enter__(self) -> Display:
        return self

    def started(self, run_id: str, run: RunConfig, folder: Path) -> None:
        """Show nothing."""

    def finished(self, run_id: str, run: RunConfig, status: str) -> None:
        """Show nothing."""

    def refresh(self) -> None:
        """Show nothing."""


def make_display(title: str, total: int, done: int, place: Place | None) -> Display:
    """Return the display of this process; of several ranks only one has a visible one."""
    return Display(title, total, done) if writes(place) else NoDisplay(title, total, done)
