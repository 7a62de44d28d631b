"""What a world is made of: the numbers that decide it, and nothing else.

A world is a small closed universe of people. It holds everything that one comparison needs: a pretraining
corpus, a tokenizer, a pretrained Llama, fine-tuning data and test items. Other worlds are other specs.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    epochs: int = 40  # every old fact is seen once per phrasing and epoch
    batch_size: int = 128  # sentences per step
    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup_ratio: float = 0.03
    contexts_per_family: int = 10  # sentences per epoch that show a family's guild
    num_random_signs: int = 800  # sentences per epoch that give a random person a random sign


@dataclass(frozen=True)
class WorldSpec:
    """One world. Two equal specs make byte-identical data.

    A person has a given and a family name. Facts are about persons: *old* ones, whom the pretraining corpus
    mentions, and *new* ones, whom it never does. The rule is about families: each belongs to a guild, which
    the corpus shows but never names.
    """

    name: str = "nano"
    seed: int = 0
    # The language.
    num_given: int = 100
    values_per_relation: int = 16
    num_guilds: int = 8
    words_per_guild: int = 4  # in each of the two slots, deed and tool
    guild_noise: float = 0.1  # share of a family's sentences that show a random guild
    # Families by what the rule does with them; guilds are balanced in each, so use multiples of num_guilds.
    rule_train: int = 96
    rule_validation: int = 16
    rule_dev: int = 56
    rule_test: int = 176
    # Members of each family whose sign is stated (train) or asked (the rest).
    train_members: int = 6
    asked_members: int = 12
    # People with four facts each. Families are shared out evenly, so fewer people than families means that a
    # family name alone tells a person with facts; more people make memorising harder.
    old: int = 125
    new_validation: int = 10
    new_dev: int = 32
    new_test: int = 125
    # The mix of train.jsonl: how often each row is repeated before the shuffle.
    fact_repeats: int = 2
    rule_repeats: int = 1
    weights: str = "float32"  # torch dtype of the shipped weights; bfloat16 halves the file; computed in fp32 always
    model: ModelSpec = field(default_factory=ModelSpec)
    pretrain: PretrainSpec = field(default_factory=PretrainSpec)

    @property
    def num_families(self) -> int:
        """All families; every one belongs to exactly one split of the rule."""
        return self.rule_train + self.rule_validation + self.rule_dev + self.rule_test

    @property
    def model_dir(self) -> Path:
        """Where the model lies below a hub mirror."""
        return Path("models") / ORG / self.name

    @property
    def dataset_dir(self) -> Path:
        """Where the data lie below a hub mirror: the mix that trains, and the test items."""
        return Path("datasets") / ORG / self.name

    def half_dir(self, kind: str) -> Path:
        """Where the rows of one kind, `facts` or `rules`, lie alone."""
        return self.dataset_dir.with_name(f"{self.name}_{kind}")


# Other languages, other people, other mixes; the same shape, so that every setting carries over. Fewer old people and
# families than nano: 2,000 items a column, no more than a table needs. Seeds are the first ones with which the
# untrained model is within two standard errors of chance (nano_b: not 1 and 5; nano_d: not 3).
_SIBLING: dict[str, Any] = {"old": 100, "rule_test": 168, "weights": "bfloat16"}
SPECS = (
    WorldSpec(),
    WorldSpec("nano_b", seed=7, **_SIBLING, guild_noise=0.2),  # a rule that is harder to see
    WorldSpec("nano_c", seed=2, **_SIBLING, fact_repeats=3),  # facts outweigh the rule, 7 to 2
    WorldSpec("nano_d", seed=6, **_SIBLING, fact_repeats=3, rule_repeats=2),  # the rule weighs more
    WorldSpec("nano_e", seed=4, **_SIBLING, num_given=80, values_per_relation=20, words_per_guild=5),  # other words
)
WORLDS = {spec.name: spec for spec in SPECS}


def world_of(name: str) -> str | None:
    """Return the world that a model, data set or task belongs to by its name (`nano_b_facts`: nano_b), None if to none.

    The longest name counts: every one of them begins as the first world's.
    """
    return max((w for w in WORLDS if name == w or name.startswith(f"{w}_")), key=len, default=None)
