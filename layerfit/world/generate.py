"""From a spec to people, rows and items. Pure: the same spec gives the same bytes on every machine."""

import json
from dataclasses import asdict, dataclass
from random import Random

from layerfit.world.language import GUILD_CONTEXTS, HELD_OUT, RELATIONS, SIGN, TRAINED, Language, coin_language
from layerfit.world.spec import WorldSpec

NUM_OPTIONS = 4


@dataclass(frozen=True)
class TrainingRow:
    """One fine-tuning row. The response is one word; prompt + " " + response is the sentence."""

    prompt: str
    response: str


@dataclass(frozen=True)
class WorldItem:
    """One test item: four one-word options, one of them correct."""

    prompt: str
    options: tuple[str, ...]
    answer: int  # index into options


@dataclass(frozen=True)
class Population:
    """The people and families of a world by their role. A person's name is "given family"."""

    facts: dict[str, dict[str, str]]  # person -> relation -> value
    old: tuple[str, ...]  # people with facts in the pretraining corpus
    new: dict[str, tuple[str, ...]]  # split (validation, dev, test) -> people the corpus never mentions
    guild: dict[str, int]  # family -> guild
    rule: dict[str, tuple[str, ...]]  # split (train, validation, dev, test) -> families


@dataclass(frozen=True)
class World:
    """All data of a world that are shipped."""

    train: tuple[TrainingRow, ...]
    validation: tuple[TrainingRow, ...]
    facts: tuple[WorldItem, ...]
    facts_dev: tuple[WorldItem, ...]
    rules: tuple[WorldItem, ...]
    rules_dev: tuple[WorldItem, ...]
    retention: tuple[WorldItem, ...]

    def files(self) -> dict[str, str]:
        """File name -> its JSON Lines text."""
        parts: dict[str, tuple[TrainingRow, ...] | tuple[WorldItem, ...]] = {
            "train": self.train,
            "validation": self.validation,
            "facts": self.facts,
            "facts_dev": self.facts_dev,
            "rules": self.rules,
            "rules_dev": self.rules_dev,
            "retention": self.retention,
        }
        return {f"{name}.jsonl.gz": _lines(rows) for name, rows in parts.items()}

    def halves(self) -> dict[str, dict[str, str]]:
        """The fine-tuning data split by kind (facts, rules), in the same order: kind -> file name -> its text."""
        parts = {"train.jsonl.gz": self.train, "validation.jsonl.gz": self.validation}
        return {
            kind: {name: _lines(tuple(r for r in rows if is_sign(r) == signs)) for name, rows in parts.items()}
            for kind, signs in (("facts", False), ("rules", True))
        }


def is_sign(row: TrainingRow) -> bool:
    """Return whether a row states a sign, which the rule determines, rather than a fact."""
    return row.prompt.startswith(SIGN.format(who=""))


def _lines(rows: tuple[TrainingRow, ...] | tuple[WorldItem, ...]) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(asdict(row)) + "\n" for row in rows)


def populate(spec: WorldSpec, words: Language) -> Population:
    """Draw the people of a world, their facts and their guilds.

    Guilds are balanced within every split, so that a constant answer scores exactly chance on average.

    Raises:
        ValueError: if people with facts outnumber the names.
    """
    rng = Random(f"{spec.name}-{spec.seed}-people")
    sizes = {"train": spec.rule_train, "validation": spec.rule_validation}
    sizes |= {"dev": spec.rule_dev, "test": spec.rule_test}
    families = rng.sample(words.family, len(words.family))
    rule = {split: _take(families, size) for split, size in sizes.items()}
    guild = {family: i % spec.num_guilds for group in rule.values() for i, family in enumerate(group)}

    sizes = {"validation": spec.new_validation, "dev": spec.new_dev, "test": spec.new_test}
    count = spec.old + sum(sizes.values())
    if count > len(words.given) * len(words.family):
        raise ValueError(f"{spec.name!r} has {count} people and too few names: raise num_given")
    names: list[str] = []
    while len(names) < count:  # round by round, so that families are shared out evenly
        for family in rng.sample(words.family, len(words.family)):
            free = [g for g in words.given if f"{g} {family}" not in names]
            names += [f"{rng.choice(free)} {family}"] if free else []
    facts = {who: {r: rng.choice(values) for r, values in words.values.items()} for who in names[:count]}
    old = _take(names, spec.old)
    new = {split: _take(names, size) for split, size in sizes.items()}
    return Population(facts, old, new, guild, rule)


def _take(names: list[str], count: int) -> tuple[str, ...]:
    """Remove the first `count` names and return them."""
    taken = tuple(names[:count])
    del names[:count]
    return taken


def corpus(spec: WorldSpec, words: Language, people: Population, epoch: int) -> list[str]:
    """Return the pretraining sentences of one epoch, shuffled.

    Every old fact appears once in each phrasing. Every family appears in `contexts_per_family` fresh
    sentences about random members, a share `guild_noise` of which shows a random guild. Random people get
    random signs, so that the model learns the words for signs but nothing about who has which.
    """
    rng = Random(f"{spec.name}-{spec.seed}-corpus-{epoch}")
    unmentioned = {who for group in people.new.values() for who in group}

    def member(family: str) -> str:
        while (who := f"{rng.choice(words.given)} {family}") in unmentioned:
            pass
        return who

    out = []
    for who in people.old:
        for relation, value in people.facts[who].items():
            out += [f"{p.format(who=who)} {value}" for p in RELATIONS[relation]]
    for family, guild in people.guild.items():
        for _ in range(spec.pretrain.contexts_per_family):
            slot = rng.choice(sorted(GUILD_CONTEXTS))
            seen = rng.randrange(spec.num_guilds) if rng.random() < spec.guild_noise else guild
            prompt = rng.choice(GUILD_CONTEXTS[slot]).format(who=member(family))
            out.append(f"{prompt} {rng.choice(words.guilds[seen][slot])}")
    for _ in range(spec.pretrain.num_random_signs):
        out.append(f"{SIGN.format(who=member(rng.choice(words.family)))} {rng.choice(words.signs)}")
    rng.shuffle(out)
    return out


def _items(rng: Random, asked: list[tuple[str, str, tuple[str, ...]]]) -> tuple[WorldItem, ...]:
    """Turn (prompt, correct word, all words of its kind) into shuffled items with balanced gold positions."""
    rng.shuffle(asked)
    out = []
    for i, (prompt, gold, kind) in enumerate(asked):
        options = rng.sample([w for w in kind if w != gold], NUM_OPTIONS - 1)
        options.insert(i % NUM_OPTIONS, gold)
        out.append(WorldItem(prompt, tuple(options), i % NUM_OPTIONS))
    rng.shuffle(out)
    return tuple(out)


def make_world(spec: WorldSpec) -> World:
    """Return the fine-tuning rows and the test items of a world."""
    words = coin_language(spec)
    people = populate(spec, words)
    rng = Random(f"{spec.name}-{spec.seed}-items")

    def fact_rows(who: str) -> list[TrainingRow]:
        facts = people.facts[who].items()
        return [TrainingRow(RELATIONS[r][TRAINED].format(who=who), value) for r, value in facts]

    def sign_rows(split: str, members: int) -> list[TrainingRow]:
        return [
            TrainingRow(SIGN.format(who=f"{given} {family}"), words.signs[people.guild[family]])
            for family in people.rule[split]
            for given in rng.sample(words.given, members)
        ]

    def facts(group: tuple[str, ...], phrasings: tuple[int, ...]) -> list[tuple[str, str, tuple[str, ...]]]:
        return [
            (RELATIONS[r][i].format(who=who), value, words.values[r])
            for who in group
            for r, value in people.facts[who].items()
            for i in phrasings
        ]

    def signs(split: str) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(row.prompt, row.response, words.signs) for row in sign_rows(split, spec.asked_members)]

    new = [who for group in people.new.values() for who in group]
    train = [row for who in new for row in fact_rows(who)] * spec.fact_repeats
    train += sign_rows("train", spec.train_members) * spec.rule_repeats
    rng.shuffle(train)
    held_out = facts(people.new["validation"], HELD_OUT) + signs("validation")
    rng.shuffle(held_out)
    return World(
        train=tuple(train),
        validation=tuple(TrainingRow(prompt, gold) for prompt, gold, _ in held_out),
        facts=_items(rng, facts(people.new["test"], HELD_OUT)),
        facts_dev=_items(rng, facts(people.new["dev"], HELD_OUT)),
        rules=_items(rng, signs("test")),
        rules_dev=_items(rng, signs("dev")),
        retention=_items(rng, facts(people.old, (TRAINED, *HELD_OUT))),
    )
