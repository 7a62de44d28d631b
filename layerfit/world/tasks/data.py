"""Read a world's items for lm-eval. Self-contained: lm-eval loads this file by its path, from any folder."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

DATASETS = Path(__file__).resolve().parent.parent / "assets" / "datasets" / "layerfit"


def load(world: str, file: str, endings: Sequence[str] = (), half: int | None = None, **_: object) -> DatasetDict:
    """Return the items of one file as the split `test`: columns prompt, options (4 words), answer (index).

    Args:
        world: folder below `assets/datasets/layerfit`.
        file: name of the JSON Lines file, without its ending `.jsonl.gz`.
        endings: keep the items whose options end with one of these (an ending marks a relation); () = all.
        half: keep the items on the first (0) or second (1) half of the families, by name; None = all.
        _: other arguments that lm-eval passes (the task's metadata).
    """
    with gzip.open(DATASETS / world / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines]
    if endings:
        items = [item for item in items if item["options"][0].endswith(tuple(endings))]
    return DatasetDict({"test": Dataset.from_list(items if half is None else _half(items, half))})


def _half(items: list[dict[str, Any]], half: int) -> list[dict[str, Any]]:
    """Return the items on one half of the families. The family is the last word of a rule item's prompt."""
    families = sorted({item["prompt"].split()[-1] for item in items})
    cut = len(families) // 2
    chosen = set(families[cut:] if half else families[:cut])
    return [item for item in items if item["prompt"].split()[-1] in chosen]
