"""Full fine-tuning, and its absence."""

from dataclasses import dataclass
from typing import ClassVar

from layerfit.methods.base import Method


@dataclass
class Full(Method):
    """Full-parameter fine-tuning: every seam at its default."""


@dataclass
class Vanilla(Method):
    """The pretrained model as it is: no step is taken."""

    trains: ClassVar[bool] = False
