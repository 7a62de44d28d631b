"""Runs of about a second on the embedded world, and what must be equal of them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from layerfit.records import record

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["training.max_steps=3", "training.batch_size=4", "training.checkpoint_every=1", "eval.limit=4"]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "layerfit", *words]


def environment() -> dict[str, str]:
    ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    return {k: v for k, v in os.environ.items() if k not in ranks} | {"PYTHONPATH": str(ROOT)}


def layerfit(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """The command, run to its end in a folder."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        command(*words), cwd=folder, env=environment(), capture_output=True, text=True, timeout=500, check=False
    )


def results(folder: Path) -> dict[str, str]:
    """The `result` part and the items of every record, as text; reading one that is broken raises."""
    out = {}
    for path in sorted((folder / "results" / "runs").glob("*.json")):
        found = record.read(folder / "results", path.stem)
        items = record.read_items(folder / "results", path.stem)
        out[path.stem] = json.dumps([dataclasses.asdict(found.result), items], sort_keys=True)
    return out
