"""From a spec to people, rows and items. Pure: the same spec gives the same bytes on every machine."""

import json
from dataclasses import asdict, dataclass
from random import Random

from layerfit.world.language import (
    GUILD_CONTEXTS,
    HELD_OUT,
    RELATIONS,
    SIGN,
    TRAINED,
    Language,
    coin_language,
)
from layerfit.world.spec import WorldSpec

NUM_OPTIONS = 4


@dataclass(frozen=True)
class Row:
    """One fine-tuning row. The response is one word; prompt + " " + response is the sentence."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Item:
    """One test item: four one-word options, one of them right."""

    prompt: str
    options: tuple[str, ...]
    answer: int  # index into options


@dataclass(frozen=True)
class Population:
    """Who lives in a world, by what is done with them. A person is a name of two words."""

    facts: dict[str, dict[str, str]]  # person -> relation -> value; old people first, then new ones
    guild: dict[str, int]  # old person -> guild
    old_with_facts: tuple[str, ...]
    new: dict[str, tuple[str, ...]]  # split (validation, dev, test) -> new people
    rule: dict[str, tuple[str, ...]]  # split (train, validation, dev, test) -> old people
    strangers: tuple[str, ...]  # names that are used for nothing else


@dataclass(frozen=True)
class World:
    """Everything that is shipped as data."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    facts: tuple[Item, ...]
    facts_dev: tuple[Item, ...]
    rules: tuple[Item, ...]
    rules_dev: tuple[Item, ...]
    retention: tuple[Item, ...]

    def files(self) -> dict[str, str]:
        """File name -> its JSON Lines text."""
        parts: dict[str, tuple[Row, ...] | tuple[Item, ...]] = {
            "train": self.train,
            "validation": self.validation,
            "facts": self.facts,
            "facts_dev": self.facts_dev,
            "rules": self.rules,
            "rules_dev": self.rules_dev,
            "retention": self.retention,
        }
        return {
            f"{name}.jsonl": "".join(json.dumps(asdict(row)) + "\n" for row in rows)
            for name, rows in parts.items()
        }


def populate(spec: WorldSpec, words: Language) -> Population:
    """Draw the people of a world, their facts and their guilds.

    Guilds are balanced within every split, so that a constant answer scores exactly chance on average.
    """
    rng = Random(f"{spec.name}-{spec.seed}-people")
    names = [f"{given} {family}" for given in words.given for family in words.family]
    rng.shuffle(names)

    def take(count: int) -> tuple[str, ...]:
        if count > len(names):
            raise ValueError(
                f"{spec.name!r} needs {count} more names and has {len(names)} left: raise num_given"
            )
        taken = tuple(names[:count])
        del names[:count]
        return taken

    sizes = {"train": spec.rule_train, "validation": spec.rule_validation}
    sizes |= {"dev": spec.rule_dev, "test": spec.rule_test}
    rule = {split: take(size) for split, size in sizes.items()}
    guild = {who: i % spec.num_guilds for people in rule.values() for i, who in enumerate(people)}
    old = take(spec.old_with_facts)
    new = {"validation": take(spec.new_validation), "dev": take(spec.new_dev), "test": take(spec.new_test)}
    everyone = [*old, *(who for people in new.values() for who in people)]
    facts = {who: {r: rng.choice(values) for r, values in words.values.items()} for who in everyone}
    return Population(facts, guild, old, new, rule, strangers=tuple(names))


def corpus(spec: WorldSpec, words: Language, people: Population, epoch: int) -> list[str]:
    """Return the pretraining sentences of one epoch, shuffled.

    Every old fact appears once in each phrasing. Every person of a guild appears in `contexts_per_person`
    fresh sentences, a share `guild_noise` of which shows a random guild. Strangers get random signs, so that
    the model knows what a sign is and has no reason to guess one.
    """
    rng = Random(f"{spec.name}-{spec.seed}-corpus-{epoch}")
    out = []
    for who in people.old_with_facts:
        for relation, value in people.facts[who].items():
            out += [f"{p.format(who=who)} {value}" for p in RELATIONS[relation]]
    for who, guild in people.guild.items():
        for _ in range(spec.pretrain.contexts_per_person):
            slot = rng.choice(sorted(GUILD_CONTEXTS))
            seen = rng.randrange(spec.num_guilds) if rng.random() < spec.guild_noise else guild
            prompt = rng.choice(GUILD_CONTEXTS[slot]).format(who=who)
            out.append(f"{prompt} {rng.choice(words.guilds[seen][slot])}")
    for _ in range(spec.pretrain.num_strangers):
        out.append(f"{SIGN.format(who=rng.choice(people.strangers))} {rng.choice(words.signs)}")
    rng.shuffle(out)
    return out


def _items(rng: Random, asked: list[tuple[str, str, tuple[str, ...]]]) -> tuple[Item, ...]:
    """Turn (prompt, right word, all words of its kind) into shuffled items with balanced gold positions."""
    rng.shuffle(asked)
    out = []
    for i, (prompt, gold, kind) in enumerate(asked):
        options = rng.sample([w for w in kind if w != gold], NUM_OPTIONS - 1)
        options.insert(i % NUM_OPTIONS, gold)
        out.append(Item(prompt, tuple(options), i % NUM_OPTIONS))
    rng.shuffle(out)
    return tuple(out)


def make_world(spec: WorldSpec) -> World:
    """Return the fine-tuning rows and the test items of a world."""
    words = coin_language(spec)
    people = populate(spec, words)
    rng = Random(f"{spec.name}-{spec.seed}-items")

    def fact_rows(who: str) -> list[Row]:
        facts = people.facts[who].items()
        return [Row(RELATIONS[r][TRAINED].format(who=who), value) for r, value in facts]

    def sign_row(who: str) -> Row:
        return Row(SIGN.format(who=who), words.signs[people.guild[who]])

    def facts(group: tuple[str, ...], phrasings: tuple[int, ...]) -> list[tuple[str, str, tuple[str, ...]]]:
        return [
            (RELATIONS[r][rng.choice(phrasings)].format(who=who), value, words.values[r])
            for who in group
            for r, value in people.facts[who].items()
        ]

    def signs(group: tuple[str, ...]) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(row.prompt, row.response, words.signs) for row in map(sign_row, group)]

    new = [who for group in people.new.values() for who in group]
    train = [row for who in new for row in fact_rows(who)] * spec.fact_repeats
    train += [sign_row(who) for who in people.rule["train"]] * spec.rule_repeats
    rng.shuffle(train)
    held_out = facts(people.new["validation"], HELD_OUT) + signs(people.rule["validation"])
    rng.shuffle(held_out)
    return World(
        train=tuple(train),
        validation=tuple(Row(prompt, gold) for prompt, gold, _ in held_out),
        facts=_items(rng, facts(people.new["test"], HELD_OUT)),
        facts_dev=_items(rng, facts(people.new["dev"], HELD_OUT)),
        rules=_items(rng, signs(people.rule["test"])),
        rules_dev=_items(rng, signs(people.rule["dev"])),
        retention=_items(rng, facts(people.old_with_facts, (TRAINED, *HELD_OUT))),
    )
