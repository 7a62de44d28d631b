"""Reads a world's items for lm-eval. Stands alone: lm-eval loads this file by its path, from any folder."""

import json
from pathlib import Path

from datasets import Dataset, DatasetDict

DATASETS = Path(__file__).resolve().parent.parent / "assets" / "datasets" / "layerfit"


def load(world: str, file: str, **_: object) -> DatasetDict:
    """Return the items of one file as the split `test`: columns prompt, options (4 words), answer (index).

    Args:
        world: folder below `assets/datasets/layerfit`.
        file: name of the JSON Lines file, without its ending.
        _: whatever else lm-eval passes (the task's metadata).
    """
    lines = (DATASETS / world / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines])})
