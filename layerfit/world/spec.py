"""What a world is made of: the numbers that decide it, and nothing else.

A world is a small closed universe of people. It holds everything that one comparison needs: a pretraining
corpus, a tokenizer, a pretrained Llama, fine-tuning data and test items. Other worlds are other specs.
"""

from dataclasses import dataclass, field
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
ORG = "layerfit"


@dataclass(frozen=True)
class ModelSpec:
    """The shape of the pretrained Llama. Layer 0 is nearest the embedding."""

    num_layers: int = 16  # so that LISA's one active block is 1/16, and IST's 4 of 16 a quarter
    width: int = 64
    num_heads: int = 4
    mlp_width: int = 192
    max_positions: int = 128
    init_std: float = 0.06  # 0.02 is for wide models; at width 64 it wastes hundreds of steps


@dataclass(frozen=True)
class PretrainSpec:
    """How the model is pretrained: AdamW, linear warm-up, cosine decay to a tenth."""

    epochs: int = 26  # every old fact is seen once per phrasing and epoch
    batch_size: int = 256  # sentences per step
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup_ratio: float = 0.03
    contexts_per_person: int = 3  # sentences per epoch that show a person's guild
    num_strangers: int = 800  # sentences per epoch that give a stranger a random sign


@dataclass(frozen=True)
class WorldSpec:
    """One world. Two equal specs make byte-identical data.

    Facts are about *new* people, whom the pretraining corpus never mentions; every new person has one fact
    per relation. Rules are about *old* people, whose guild the corpus shows but never names.
    """

    name: str = "nano"
    seed: int = 0
    # The language. A name is two words, so a person cannot be learned in one embedding row.
    num_given: int = 110
    num_family: int = 110
    values_per_relation: int = 16
    num_guilds: int = 8
    words_per_guild: int = 6  # in each of the two slots, deed and tool
    guild_noise: float = 0.1  # share of a person's sentences that show another guild
    # Old people: in the pretraining corpus.
    old_with_facts: int = 500
    rule_train: int = 800
    rule_validation: int = 150
    rule_dev: int = 520
    rule_test: int = 2000
    # New people: four facts each, all trained in one phrasing, asked in another.
    new_validation: int = 40
    new_dev: int = 130
    new_test: int = 500
    # The mix of train.jsonl: how often each row is repeated before the shuffle.
    fact_repeats: int = 1
    rule_repeats: int = 1
    model: ModelSpec = field(default_factory=ModelSpec)
    pretrain: PretrainSpec = field(default_factory=PretrainSpec)

    @property
    def model_dir(self) -> Path:
        """Where the model lies below a hub mirror."""
        return Path("models") / ORG / self.name

    @property
    def dataset_dir(self) -> Path:
        """Where the data lie below a hub mirror."""
        return Path("datasets") / ORG / self.name


WORLDS = {spec.name: spec for spec in (WorldSpec(),)}
