"""Fine-tuning methods: one file each. A new method is a file here and a line in METHODS."""

from layerfit.methods.adalora import AdaLoRA
from layerfit.methods.base import Method
from layerfit.methods.bottleneck import Parallel, Series
from layerfit.methods.dora import DoRA
from layerfit.methods.full import Full, Vanilla
from layerfit.methods.galore import GaLore
from layerfit.methods.greedy import GreedyRanking
from layerfit.methods.ila import ILA, ILARanking
from layerfit.methods.ist import IST
from layerfit.methods.lift import Lift
from layerfit.methods.lisa import LISA
from layerfit.methods.lora import LoRA
from layerfit.methods.random_mask import RandomMask
from layerfit.methods.static import Static

METHODS: dict[str, type[Method]] = {
    "vanilla": Vanilla,
    "full": Full,
    "lora": LoRA,
    "dora": DoRA,
    "adalora": AdaLoRA,
    "series": Series,
    "parallel": Parallel,
    "galore": GaLore,
    "lisa": LISA,
    "ila": ILA,
    "ila_ranking": ILARanking,
    "ist": IST,
    "greedy_ranking": GreedyRanking,
    "static": Static,
    "lift": Lift,
    "random_mask": RandomMask,
}
