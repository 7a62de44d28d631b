"""Made-up records for tests of the report: composed for real, scored by a seeded coin."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerfit.config import folders, identity_of, run_id
from layerfit.config.schema import RunConfig
from layerfit.records.record import DataCard, Measured, Record, Result, Score, write
from layerfit.report.cells import Cell, required
from layerfit.report.spec import TableSpec, parse

MANIFEST = {
    "commit": "0123456789ab",
    "dirty": False,
    "device": "cpu",
    "versions": {
        "lm_eval": "0.4.13",
        "torch": "2.11.0",
        "transformers": "5.17.0",
        "deepspeed": "0.19.8",
        "peft": "0.21.0",
    },
}
CARD = DataCard(4000, 4000, {}, "f00d", True, {"0": 4, "0.5": 6, "0.9": 8, "1": 9}, 0.25)


def score(key: str, items: list[float], **changes: Any) -> Score:
    task, _, metric = key.partition("/")
    made = Score(task, metric, sum(items) / len(items), 0.01, len(items), len(items), 0, "1.0", True, f"docs-{task}")
    return dataclasses.replace(made, **changes)


def record(run: RunConfig, items: dict[str, list[float]], *, seconds: float = 15.0, **changes: Any) -> Record:
    """A finished run with these per-item outcomes."""
    trains = run.method.trains
    result = Result(
        config=json.loads(json.dumps(identity_of(run))),
        status="ok",
        scores=[score(key, values) for key, values in items.items()],
        trainable_parameters=1_000_000 if trains else 0,
        total_parameters=1_000_000,
        tokens=80_000 if trains else None,
        data=CARD if trains else None,
    )
    measured = Measured(
        train_seconds=seconds if trains else None,
        tokens_per_s=5200.0 if trains else None,
        peak_memory_bytes={"allocated": 48 * 2**20} if trains else {},
        manifest=MANIFEST,
    )
    return dataclasses.replace(Record(run_id(run), run.method_name(), "", result, measured), **changes)


def coin(name: str, share: float, count: int, *, seed: int | None, spread: float = 0.02) -> list[float]:
    """Outcomes of one run: items of differing difficulty, shared by all runs; the share right varies by seed."""
    difficulty = np.random.default_rng(sum(name.encode())).uniform(-0.25, 0.25, count)
    rng = np.random.default_rng([sum(name.encode()), int(1e4 * share), 0 if seed is None else seed + 1])
    level = share + (0.0 if seed is None else spread * rng.standard_normal())
    return (rng.random(count) < np.clip(level + difficulty, 0, 1)).astype(float).tolist()


def fill(cells: list[Cell], folder: Path, shares: dict[str, dict[str, float]], count: int = 400) -> None:
    """Write a record for every cell, and for the runs it requires. shares: row -> score key -> share right."""
    for cell in cells:
        for run in required(cell.run):
            write(record(run, {}, seconds=4.0), {}, folder)
        items = {k: coin(k, share, count, seed=cell.seed) for k, share in shares[cell.row].items()}
        write(record(cell.run, items), items, folder)


KEYS = ("nano_facts/acc", "nano_rules/acc")
SPEC: dict[str, Any] = {
    "title": "A small table",
    "base": [
        "model=nano",
        "dataset=nano",
        "eval=nano",
        "engine=zero0",
        "training.max_steps=20",
        "training.batch_size=64",
    ],
    "rows": {
        "Vanilla": ["method=vanilla"],
        "LoRA": ["method=lora", "method.rank=4"],
        "ILA": ["method=ila", "method.rank=4"],
    },
    "seeds": [0, 1, 2],
    "columns": {"Facts": {"score": KEYS[0], "chance": 0.25}, "Rules": KEYS[1]},
}
SHARES = {row: dict(zip(KEYS, shares, strict=True)) for row, shares in
          {"Vanilla": (0.25, 0.26), "LoRA": (0.6, 0.45), "ILA": (0.61, 0.6)}.items()}  # fmt: skip


def small(**sections: Any) -> TableSpec:
    """A table of three rows and two columns."""
    return parse("small", {**SPEC, **sections}, "conf/table/small.yaml")


def new_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder with one small table, and a working directory."""
    (tmp_path / "conf" / "table").mkdir(parents=True)
    text = (
        "title: A small table\nbase: [eval=nano, training.max_steps=20]\n"
        "rows: {Vanilla: [method=vanilla], LoRA: [method=lora]}\nseeds: [0, 1]\n"
        f"columns: {{Facts: {KEYS[0]}}}\n"
    )
    (tmp_path / "conf" / "table" / "tiny.yaml").write_text(text)
    monkeypatch.setattr(folders, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path
