"""Move records aside so that their runs run again; nothing recorded is deleted or overwritten."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from itertools import count
from pathlib import Path

from layerfit.errors import UserError
from layerfit.records.record import Broken, Record, read

KINDS = ("runs", "rankings", "answers", "judgments")
"""Folders of `results/` whose files are named after a run."""


def set_aside(run_ids: Iterable[str], results: str | Path, outputs: str | Path | None) -> list[Path]:
    """Move the records of some runs to `<results>/replaced/<time>/`, their working folders likewise.

    outputs: None leaves the working folders where they are.

    Returns:
        The folders that now hold them: one under `results`, and one under `outputs` if a working folder was moved.

    Raises:
        UserError: if they cannot be moved.
    """
    try:
        kept = _new_folder(Path(results) / "replaced")
        worked = None if outputs is None else Path(outputs) / "replaced" / kept.name
        for run_id in run_ids:
            for kind in KINDS:
                for path in sorted((Path(results) / kind).glob(f"{run_id}.*")):
                    _move(path, kept / kind / path.name)
            # Weights, answers or a checkpoint of the old run must not end up in the new one.
            if outputs is not None and worked is not None and (Path(outputs) / run_id).is_dir():
                _move(Path(outputs) / run_id, worked / run_id)
    except OSError as error:
        raise UserError(f"records cannot be moved to {Path(results) / 'replaced'}: {error.strerror}") from error
    return [folder for folder in (kept, worked) if folder is not None and folder.is_dir()]


def _new_folder(root: Path) -> Path:
    """Make a folder named after the time, with a number behind it where one of this second exists."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H%M%S")
    root.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = root / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # by another call, or another process
            continue
    raise AssertionError("count() does not end")


def _move(source: Path, target: Path) -> None:
    """Move a file or folder to a place that is this call's alone; another process may have moved it before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # `rename` replaces a file silently
        raise FileExistsError(17, "it is there already", str(target))
    try:
        source.rename(target)
    except FileNotFoundError:
        return


def sound(results: str | Path, run_id: str, outputs: str | Path | None = None, *, move: bool = True) -> Record | None:
    """Return the record of a run that is to run if it has none; a broken one is set aside, in one line, and is none.

    outputs: as for `set_aside`. move: False where another process moves it.

    Raises:
        UserError: if the record is newer than this layerfit or must not be read, or a broken one cannot be moved.
    """
    try:
        return read(results, run_id)
    except Broken as error:
        if move:
            folders = set_aside([run_id], results, outputs)
            print(f"{error.path}: not a record: {error.what}; moved to {folders[0]}, to run again", file=sys.stderr)
        return None
