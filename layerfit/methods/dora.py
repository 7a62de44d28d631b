"""DoRA through PEFT (Liu et al., arXiv:2402.09353): LoRA moves the direction of a weight, a vector its magnitude.

W' = m (W + s B A) / ||W + s B A||, s = alpha / rank, the norm and the trained m per output (Eq. 5; the paper's
columns are the rows of torch's [out, in]). The norm passes no gradient (section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from layerfit.methods.lora import LowRank


@dataclass
class DoRA(LowRank):
    """LoRA's adapters, with a magnitude for each output of each adapted module."""

    decomposed: ClassVar[bool] = True
