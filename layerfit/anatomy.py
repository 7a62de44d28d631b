"""Where a decoder keeps its blocks, embedding, final norm and head: names, no weights."""

from dataclasses import dataclass

from layerfit.methods.base import EMBEDDING, HEAD, NORM, Shape

_WRAPPERS = ("module.", "base_model.model.")


@dataclass(frozen=True)
class Anatomy:
    """Module paths of one architecture (from `conf/model/*.yaml`).

    blocks: path of the list of decoder blocks, `model.layers`. linear: linear modules inside a block, relative to it.
    """

    num_layers: int
    blocks: str
    embedding: str
    norm: str
    head: str
    linear: tuple[str, ...]
    smallest_side: int | None = None

    def shape(self, num_steps: int) -> Shape:
        """Return what methods check their parameters against."""
        return Shape(
            num_layers=self.num_layers, num_steps=num_steps, linear=self.linear, smallest_side=self.smallest_side
        )

    def module_path(self, unit: str) -> str:
        """Return the module path of a unit: `layers.3.mlp` -> `model.layers.3.mlp`."""
        assert unit.startswith("layers."), unit
        return f"{self.blocks}.{unit.removeprefix('layers.')}"

    def canonical(self, name: str) -> str:
        """Return a module or parameter name without the prefixes that wrappers (PEFT, DeepSpeed) put before it."""
        for prefix in _WRAPPERS:
            name = name.removeprefix(prefix)
        return name

    def unit(self, name: str) -> str | None:
        """Return the unit path of a module or parameter name, None outside the blocks.

        `base_model.model.model.layers.3.self_attn.q_proj` -> `layers.3.self_attn.q_proj`.
        """
        name = self.canonical(name)
        return f"layers.{name.removeprefix(self.blocks + '.')}" if name.startswith(self.blocks + ".") else None

    def part(self, name: str) -> str | None:
        """Return EMBEDDING, NORM or HEAD if the parameter belongs to that part, else None."""
        name = self.canonical(name)
        for part, path in ((EMBEDDING, self.embedding), (NORM, self.norm), (HEAD, self.head)):
            if name.startswith(path + "."):
                return part
        return None
