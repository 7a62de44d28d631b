"""Full fine-tuning, and the untrained baseline."""

from dataclasses import dataclass
from typing import ClassVar

from layerfit.methods.base import Method


@dataclass
class Full(Method):
    """Full-parameter fine-tuning: every hook at its default."""


@dataclass
class Vanilla(Method):
    """The pretrained model, evaluated without training."""

    trains: ClassVar[bool] = False
