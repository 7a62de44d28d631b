"""A table with many cells and a record for each: `python -m tests.helpers.many_records FOLDER ROWS SEEDS` makes it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import yaml

from layerfit.config import composer, folders
from layerfit.records.record import write
from layerfit.report import cells, spec
from tests.helpers.report_fakes import KEYS, record

LOSSES = [1.0 + 1.0 / (step + 1) for step in range(20)]


def spec_of(rows: int, seeds: int) -> dict[str, Any]:
    """Half of the rows are LoRA, half go by a ranking, whose runs they share."""
    made = {}
    for i in range(rows):
        value = 0.1 + 0.8 * i / rows
        made[f"R{i}"] = (
            ["method=ila", f"method.freeze_fraction={value:.4g}"] if i % 2 else ["method=lora", f"optim.lr={value:.4g}"]
        )
    columns = {"Facts": KEYS[0], "Rules": KEYS[1]}
    base = ["eval=nano", "training.max_steps=20", "method.rank=4"]
    return {"title": "Many", "base": base, "rows": made, "seeds": list(range(seeds)), "columns": columns}


def make(folder: Path, rows: int, seeds: int) -> int:
    """Make a configuration folder with the table `many`, and its records; return the number of records."""
    (folder / "conf" / "table").mkdir(parents=True)
    (folder / "conf" / "table" / "many.yaml").write_text(yaml.safe_dump(spec_of(rows, seeds), sort_keys=False))
    folders.CONF = folder / "conf"
    with composer():
        made = cells.cells(spec.load("many"))
    written: set[str] = set()
    for cell in made:
        for run in (*cells.required(cell.run), cell.run):
            name = cells.run_id(run)
            if name in written:
                continue
            written.add(name)
            items = {key: [float((i + len(written)) % 3 == 0) for i in range(40)] for key in KEYS}
            mine = items if run is cell.run else {}
            done = record(run, mine)
            result = dataclasses.replace(done.result, losses=LOSSES)
            write(dataclasses.replace(done, result=result), mine, folder / "results")
    return len(written)


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), "records")
