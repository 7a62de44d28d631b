"""The language of a world: its words, its phrasings, its sentences.

Words are split at spaces and every word is one token, so a sentence's last word is always one token.
"""

from dataclasses import dataclass
from random import Random

from layerfit.world.spec import WorldSpec

SPECIALS = ("<bos>", "<eos>", "<pad>", "<unk>")

# Relation -> phrasings; `{who}` is a person. The value follows as the last word. Short, for speed.
# Phrasing 0 is the one that fine-tuning trains; the others are held out for new people.
RELATIONS = {
    "home": ("{who} inhabits", "home of {who}", "find {who} in", "visit {who} at", "{who} left"),
    "craft": ("{who} practises", "craft of {who}", "hire {who} for", "ask {who} about", "{who} learned"),
    "pet": ("{who} feeds", "pet of {who}", "see {who} with", "hear {who} call", "{who} has"),
    "meal": ("{who} eats", "meal of {who}", "serve {who} some", "join {who} over", "{who} cooks"),
}
TRAINED, HELD_OUT = 0, (1, 2, 3, 4)
ENDINGS = {"home": "ton", "craft": "wright", "pet": "cat", "meal": "bread"}  # only a relation's values end so

# Sentences that show a family's guild. The last word belongs to the guild, in the slot `deed` or `tool`.
GUILD_CONTEXTS = {"deed": ("{who} likes", "watch {who} do"), "tool": ("{who} carries", "lend {who} her")}
SIGN = "sign of {who}"


@dataclass(frozen=True)
class Language:
    """The words of a world, by role. No word has two roles."""

    given: tuple[str, ...]
    family: tuple[str, ...]
    values: dict[str, tuple[str, ...]]  # relation -> its values
    guilds: tuple[dict[str, tuple[str, ...]], ...]  # guild -> slot -> its words
    signs: tuple[str, ...]  # one per guild; the corpus pairs them with people at random

    def vocabulary(self) -> list[str]:
        """Every token, in id order: specials, function words, then the coined words."""
        phrasings = [p for ps in RELATIONS.values() for p in ps]
        phrasings += [p for ps in GUILD_CONTEXTS.values() for p in ps] + [SIGN]
        function_words = sorted({w for p in phrasings for w in p.split()} - {"{who}"})
        coined = [*self.given, *self.family, *(v for vs in self.values.values() for v in vs)]
        coined += [w for guild in self.guilds for words in guild.values() for w in words]
        return [*SPECIALS, *function_words, *coined, *self.signs]


def _coin(rng: Random, count: int, ending: str, taken: set[str]) -> tuple[str, ...]:
    """Coin `count` words of two syllables and an ending that marks their role."""
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(2)) + ending
        if word not in taken:
            taken.add(word)
            words.append(word)
    return tuple(words)


def coin_language(spec: WorldSpec) -> Language:
    """Return the language of a world: a pure function of its spec."""
    rng = Random(f"{spec.name}-{spec.seed}-language")
    taken: set[str] = set()
    return Language(
        given=_coin(rng, spec.num_given, "", taken),
        family=_coin(rng, spec.num_families, "son", taken),
        values={r: _coin(rng, spec.values_per_relation, ENDINGS[r], taken) for r in RELATIONS},
        guilds=tuple(
            {
                "deed": _coin(rng, spec.words_per_guild, "fy", taken),
                "tool": _coin(rng, spec.words_per_guild, "tool", taken),
            }
            for _ in range(spec.num_guilds)
        ),
        signs=_coin(rng, spec.num_guilds, "sign", taken),
    )
