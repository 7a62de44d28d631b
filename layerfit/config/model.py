"""The schema of a model, a part of `RunConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from layerfit.anatomy import Anatomy
from layerfit.config.judge import LABEL
from layerfit.errors import UserError, check_one_of

_PARTS = ("num_layers", "blocks", "embedding", "norm", "head", "linear", "max_positions")


@dataclass
class ModelConfig:
    """A causal language model: where it comes from and what its parts are called.

    What is null of the parts is read from the model's `config.json` (`model=hf`): it follows from the model, so it is
    no part of a run's identity.
    """

    name: str = MISSING
    id: str | None = MISSING
    """Hub id; `layerfit/nano` and its siblings are embedded. null: only `path` says where it is."""
    revision: str | None = None
    path: str | None = field(default=None, metadata={"identity": "content"})
    """A local folder, instead of the hub."""
    weights: str = "pretrained"
    num_layers: int | None = MISSING
    blocks: str | None = "model.layers"
    embedding: str | None = "model.embed_tokens"
    beside_embedding: list[str] = field(default_factory=list, metadata={"since": "bloom and opt"})
    """Other modules of the embedding part: a norm of it, learned positions."""
    norm: str | None = "model.norm"
    head: str | None = "lm_head"
    """Equal to `embedding` where the two are tied."""
    linear: list[str] | None = field(default_factory=list)
    """Linear modules of a block, relative to it."""
    max_positions: int | None = MISSING
    smallest_side: int | None = field(default=None, metadata=LABEL)
    """Rows or columns, whichever is fewer, of the smallest linear module: the largest rank of a projection."""
    sizes: dict[str, Any] = field(default_factory=dict, metadata=LABEL)
    """What its `config.json` says of its sizes, for estimates on a machine that has no copy of it."""
    _read: dict[str, Any] = field(default_factory=dict, init=False, repr=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        check_one_of("model.weights", self.weights, ("pretrained", "random"))
        if self.id is None and self.path is None:
            raise UserError("model.id and model.path are both null; give a hub id, model.id=<org>/<name>, or a folder")

    def open_parts(self) -> list[str]:
        """Return the parts that are null and not read from a `config.json` yet."""
        return [name for name in _PARTS if getattr(self, name) is None and name not in self._read]

    def read(self, found: Mapping[str, Any]) -> None:
        """Take what a `config.json` says (`layerfit.anatomy.read_parts`) for what is null; the rest stays as given."""
        names = [*_PARTS, "smallest_side"] + ([] if self.beside_embedding else ["beside_embedding"])
        self._read = {key: found[key] for key in names if key in found}

    def part(self, name: str) -> Any:
        """Return a part as given, else as read."""
        value = getattr(self, name)
        return self._read.get(name, value) if value in (None, []) else value

    def anatomy(self) -> Anatomy:
        """Return where the parts are."""
        assert not self.open_parts(), f"not read yet: {self.open_parts()}"
        values = {key: self.part(key) for key in ("num_layers", "blocks", "embedding", "norm", "head", "smallest_side")}
        return Anatomy(
            **values, linear=tuple(self.part("linear")), beside_embedding=tuple(self.part("beside_embedding"))
        )
