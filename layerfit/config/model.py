"""The schema of a model, a part of `RunConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from layerfit.anatomy import ARCHITECTURES, Anatomy
from layerfit.config.judge import LABEL
from layerfit.errors import MOST_SEQUENCES, WIDEST, UserError, check_one_of, check_range
from layerfit.files.paths import PATH

_PARTS = ("num_layers", "blocks", "embedding", "norm", "head", "linear", "max_positions")

_MOST = {"num_layers": 100_000, "max_positions": MOST_SEQUENCES, "smallest_side": WIDEST}


@dataclass
class ModelConfig:
    """A causal language model: its source and the names of its modules.

    Null values are read from the model's `config.json` (`model=hf`, `anatomy`). They follow from the model, so the
    values read are not stored here and do not enter a run's id.
    """

    name: str = MISSING
    id: str | None = MISSING
    """Hub id; `layerfit/nano` and its siblings are embedded. null: the model is at `path`."""
    revision: str | None = None
    path: str | None = field(default=None, metadata={"identity": "model", **PATH})
    """A local folder, instead of the hub."""
    weights: str = "pretrained"
    num_layers: int | None = MISSING
    blocks: str | None = "model.layers"
    embedding: str | None = "model.embed_tokens"
    beside_embedding: list[str] = field(default_factory=list, metadata={"since": "bloom and opt"})
    """Other modules of the embedding part: its norm, learned positions."""
    norm: str | None = "model.norm"
    head: str | None = "lm_head"
    """Equal to `embedding` where the two are tied."""
    linear: list[str] | None = field(default_factory=list)
    """Linear modules of a block, relative to it."""
    norms: list[str] | None = field(default_factory=lambda: list(ARCHITECTURES["llama"]["norms"]), metadata=LABEL)
    """Norm modules other than the final one: relative to a block, or one of `beside_embedding`; null = not known."""
    max_positions: int | None = MISSING
    smallest_side: int | None = field(default=None, metadata=LABEL)
    """The smaller dimension of the smallest linear module: the largest possible rank of a projection."""
    sizes: dict[str, Any] = field(default_factory=dict, metadata=LABEL)
    """The size fields of its `config.json`, for estimates on a machine without a copy of the model."""

    def __post_init__(self) -> None:
        check_one_of("model.weights", self.weights, ("pretrained", "random"))
        if self.id is None and self.path is None:
            raise UserError("model.id and model.path are both null; give a hub id, model.id=<org>/<name>, or a folder")
        for name in ("num_layers", "max_positions", "smallest_side"):
            if isinstance(value := getattr(self, name), int):
                check_range(f"model.{name}", value, 1, _MOST[name])

    def open_parts(self, found: Mapping[str, Any] | None = None) -> list[str]:
        """Return the parts that are neither given nor found in a `config.json`."""
        return [name for name in _PARTS if getattr(self, name) is None and name not in (found or {})]

    def anatomy(self, found: Mapping[str, Any] | None = None) -> Anatomy:
        """Return the module paths: as given, or where null as found (by `layerfit.anatomy.read_parts`)."""
        assert not self.open_parts(found), f"not found: {self.open_parts(found)}"
        read = found or {}
        names = (*_PARTS, "beside_embedding", "norms", "smallest_side")
        values = {name: getattr(self, name) for name in names}
        parts = {name: read.get(name, value) if value in (None, []) else value for name, value in values.items()}
        tuples: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in parts.items()}
        return Anatomy(**tuples)
