"""DoRA through PEFT (Liu et al., arXiv:2402.09353): LoRA for a weight's direction, a trained vector for its magnitude.

W' = m (W + s B A) / ||W + s B A||, s = alpha / rank, with one norm and one trained m per output (Eq. 5; the
paper's columns are the rows of torch's [out, in]). The norm is detached from the graph (section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from layerfit.methods.lora import LowRank


@dataclass
class DoRA(LowRank):
    """LoRA's adapters, plus a magnitude for each output of each adapted module."""

    decomposed: ClassVar[bool] = True
