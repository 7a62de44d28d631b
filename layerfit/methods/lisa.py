"""LISA: train the embedding, the head and a few random blocks (Pan et al., arXiv:2403.17919, Algorithm 1).

Every `switch_every` steps exactly `num_active` of the N blocks are drawn uniformly, without replacement; the others
freeze. The authors ran each interval as a separate job, saving and loading the model between them (LMFlow #729):
`moments=reset masters=drop`. `moments=keep` preserves the Adam state of parameters that stay active over a switch.
Version 1 of the paper drew each block independently, with probability num_active / N: `sampling=bernoulli`.

`sampling=ascending|descending|reshuffled` takes the blocks in turn instead: with `num_active=1 always=[] moments=reset
masters=drop` that is BAdam (Luo et al., arXiv:2404.02827).
"""

import random
import re
from dataclasses import dataclass, field
from typing import ClassVar

from layerfit.anatomy import EMBEDDING, HEAD, NORM, Shape, layer_units
from layerfit.errors import UserError, check_one_of, check_range
from layerfit.methods.base import REBUILD, Context, Method, Plan, SwitchPolicy

ORDERS = ("ascending", "descending", "reshuffled")
"""Orders of a pass over all blocks."""


def interval(text: str, num_steps: int) -> int:
    """Return an interval in steps, given as steps (`20`) or as a fraction of the run (`T/25`: rounded, at least 1).

    Raises:
        UserError: if the text is neither, or the interval is below 1.
    """
    if match := re.fullmatch(r"T(?:/([0-9]{1,9}))?", text.strip()):
        divisor = int(match[1] or 1)
        steps = max(1, round(num_steps / divisor)) if divisor else 0
    else:
        steps = int(text) if re.fullmatch("[0-9]{1,9}", text.strip()) else 0
    if steps < 1:
        raise UserError(f"method.switch_every={text!r} is not an interval: a number of steps >= 1, or T/n with n >= 1")
    return steps


def next_layers(*, num_layers: int, num_active: int, draw: int, seed: int, order: str) -> frozenset[int]:
    """Return the block indices of turn `draw`: `num_active` at a time, each block once in every pass.

    reshuffled: every pass in another random order. The last turn of a pass may have fewer blocks.
    """
    number, turn = divmod(draw, -(-num_layers // num_active))
    layers = list(range(num_layers))
    if order == "descending":
        layers.reverse()
    elif order == "reshuffled":
        random.Random(f"pass/{seed}/{number}").shuffle(layers)
    return frozenset(layers[turn * num_active : (turn + 1) * num_active])


def draw_layers(*, num_layers: int, num_active: int, draw: int, seed: int, sampling: str) -> frozenset[int]:
    """Draw block indices: a pure function, so that ranks agree and a resumed run repeats the draw."""
    if sampling in ORDERS and num_active:
        return next_layers(num_layers=num_layers, num_active=num_active, draw=draw, seed=seed, order=sampling)
    rng = random.Random(f"lisa/{seed}/{draw}")
    if sampling == "bernoulli":
        return frozenset(i for i in range(num_layers) if rng.random() < num_active / num_layers)
    return frozenset(rng.sample(range(num_layers), num_active))


@dataclass
class LISA(Method):
    """See the module's docstring; sources of the defaults: `conf/method/lisa.yaml`."""

    num_active: int = 2  # gamma
    switch_every: str = "T/25"  # K
    always: list[str] = field(default_factory=lambda: [EMBEDDING, HEAD, NORM])
    moments: str = "keep"
    masters: str = "carry"
    sampling: str = "exact"

    switching: ClassVar[str] = REBUILD

    def __post_init__(self) -> None:
        check_range("method.num_active", self.num_active, 0)
        check_one_of("method.moments", self.moments, ("keep", "reset"))
        check_one_of("method.masters", self.masters, ("carry", "drop"))
        check_one_of("method.sampling", self.sampling, ("exact", "bernoulli", *ORDERS))
        interval(self.switch_every, 100)
        for part in self.always:
            check_one_of("method.always", part, (EMBEDDING, HEAD, NORM))
        if not self.always and self.num_active == 0:
            raise UserError("method.num_active=0 with method.always=[] trains nothing; name a part or a block")
        if not self.always and self.sampling == "bernoulli":
            raise UserError(
                "method.sampling=bernoulli with method.always=[] may draw nothing to train; name a part, or draw exact"
            )

    def check(self, shape: Shape) -> None:
        """Raise UserError unless 0 <= num_active <= the model's depth."""
        check_range("method.num_active", self.num_active, 0, shape.num_layers)
        interval(self.switch_every, shape.num_steps)

    def switch_policy(self) -> SwitchPolicy:
        """Return the configured treatment."""
        return SwitchPolicy(moments=self.moments, masters=self.masters)

    def plan(self, step: int, ctx: Context) -> Plan:
        """Return the blocks drawn for this step's interval."""
        draw = step // interval(self.switch_every, ctx.shape.num_steps)
        layers = draw_layers(
            num_layers=ctx.shape.num_layers,
            num_active=self.num_active,
            draw=draw,
            seed=ctx.seed,
            sampling=self.sampling,
        )
        # With fresh moments every interval is a switch, also when the same blocks are drawn again.
        return Plan(layer_units(layers), tuple(self.always), draw=draw if self.moments == "reset" else 0)
