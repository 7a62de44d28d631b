"""Move records aside so that their runs run again; nothing recorded is deleted or overwritten."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

KINDS = ("runs", "rankings", "answers", "judgments")
"""Folders of `results/` whose files are named after a run."""


def set_aside(run_ids: Iterable[str], results: str | Path, outputs: str | Path) -> list[Path]:
    """Move the records of some runs to `<results>/replaced/<time>/`, their working folders likewise.

    Returns:
        The folders that now hold them: one under `results`, and one under `outputs` if a working folder was moved.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H%M%S")
    kept, worked = Path(results) / "replaced" / stamp, Path(outputs) / "replaced" / stamp
    for run_id in run_ids:
        for kind in KINDS:
            for path in sorted((Path(results) / kind).glob(f"{run_id}.*")):
                _move(path, kept / kind / path.name)
        # Weights, answers or a checkpoint of the old run must not end up in the new one.
        if (Path(outputs) / run_id).is_dir():
            _move(Path(outputs) / run_id, worked / run_id)
    return [folder for folder in (kept, worked) if folder.is_dir()]


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # `rename` replaces a file silently
        raise FileExistsError(target)
    source.rename(target)
