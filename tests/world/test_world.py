"""The embedded world: pure, free of leaks, of the promised size, shipped as generated; and its gates."""

import gzip
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from layerfit.world import ship
from layerfit.world.gates import Evidence, gates, standard_error
from layerfit.world.generate import NUM_OPTIONS, corpus, make_world, populate
from layerfit.world.language import HELD_OUT, RELATIONS, SIGN, TRAINED, coin_language
from layerfit.world.spec import ASSETS, WORLDS

NANO = WORLDS["nano"]
TESTS = ("facts", "rules", "retention")
ITEMS = (*TESTS, "facts_dev", "rules_dev")


@pytest.fixture(scope="module")
def world():
    return make_world(NANO)


@pytest.fixture(scope="module")
def people():
    return populate(NANO, coin_language(NANO))


@pytest.fixture(scope="module")
def sentences(people):
    return corpus(NANO, coin_language(NANO), people, epoch=0)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / NANO.model_dir)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(ASSETS / NANO.model_dir)


def who(prompt):
    """The person of a prompt: the two words that are no phrasing."""
    phrasings = [p for ps in RELATIONS.values() for p in ps] + [SIGN]
    fixed = {w for p in phrasings for w in p.split()}
    name = [w for w in prompt.split() if w not in fixed]
    assert len(name) == 2
    return " ".join(name)


def test_the_generator_is_pure_and_the_seed_matters(world):
    assert make_world(NANO) == world
    other = make_world(replace(NANO, seed=1))
    assert not {r.prompt for r in other.train} & {r.prompt for r in world.train}


def test_corpus_is_pure_and_fresh_every_epoch(people, sentences):
    words = coin_language(NANO)
    assert corpus(NANO, words, people, 0) == sentences
    assert corpus(NANO, words, people, 1) != sentences


def test_other_mixes_make_other_worlds():
    facts = make_world(replace(NANO, name="facts", new_test=300, rule_train=16, fact_repeats=2))
    signs = sum(row.prompt.startswith("sign of ") for row in facts.train)
    assert signs == 16 * NANO.train_members
    assert len(facts.facts) == 4800
    with pytest.raises(ValueError, match="raise num_given"):
        make_world(replace(NANO, old=50_000))


def test_no_test_sentence_is_ever_seen(world, sentences):
    random_signs = {s for s in sentences if s.startswith("sign of ")}  # of anybody: tested below
    seen = {f"{r.prompt} {r.response}" for r in world.train} | set(sentences) - random_signs
    prompts = {r.prompt for r in world.train}
    for name in ("facts", "rules", "facts_dev", "rules_dev"):
        items = getattr(world, name)
        assert not prompts & {i.prompt for i in items}
        assert not seen & {f"{i.prompt} {o}" for i in items for o in i.options}
    assert not seen & {f"{r.prompt} {r.response}" for r in world.validation}


def test_new_people_are_new_and_appear_in_the_trained_phrasing_only(world, people, sentences):
    new = {w for group in people.new.values() for w in group}
    pairs = {f"{a} {b}" for s in sentences for a, b in pairwise(s.split())}
    assert set(people.old) <= pairs
    assert not new & pairs
    trained = {who(r.prompt): r.prompt for r in world.train if not r.prompt.startswith("sign of ")}
    assert set(trained) == new
    allowed = {RELATIONS[r][TRAINED].format(who=w) for r in RELATIONS for w in new}
    assert {r.prompt for r in world.train if not r.prompt.startswith("sign of ")} == allowed
    held_out = {RELATIONS[r][i].format(who=w) for r in RELATIONS for i in HELD_OUT for w in new}
    assert {i.prompt for i in world.facts + world.facts_dev} <= held_out


def test_the_corpus_says_nothing_about_signs(people, sentences):
    words = coin_language(NANO)
    said = [s.split() for s in sentences if s.startswith("sign of ")]
    right = sum(sign == words.signs[people.guild[family]] for *_, family, sign in said)
    chance = 1 / NANO.num_guilds
    assert abs(right / len(said) - chance) < 3 * (chance * (1 - chance) / len(said)) ** 0.5


def test_splits_share_no_person_and_no_family_of_the_rule(world):
    assert not {who(i.prompt) for i in world.facts} & {who(i.prompt) for i in world.facts_dev}
    signs = [r.prompt for r in world.train if r.prompt.startswith("sign of ")]
    held_out = [i.prompt for i in world.rules], [i.prompt for i in world.rules_dev]
    families = [{who(prompt).split()[1] for prompt in group} for group in (signs, *held_out)]
    assert [len(group) for group in families] == [NANO.rule_train, NANO.rule_test, NANO.rule_dev]
    assert sum(map(len, families)) == len(set.union(*families))


def test_the_answers_are_right(world, people):
    words = coin_language(NANO)
    for item in world.rules:
        assert item.options[item.answer] == words.signs[people.guild[who(item.prompt).split()[1]]]
    for item in world.facts + world.retention:
        assert item.options[item.answer] in people.facts[who(item.prompt)].values()


def test_items_are_many_distinct_and_balanced(world):
    for name in ITEMS:
        items = getattr(world, name)
        assert len(items) >= (2000 if name in TESTS else 500)
        assert len({i.prompt for i in items}) == len(items)
        assert all(len(set(i.options)) == len(i.options) == NUM_OPTIONS for i in items)
        positions = Counter(i.answer for i in items)
        assert max(positions.values()) - min(positions.values()) <= 1
    gold = Counter(i.options[i.answer] for i in world.rules)
    assert len(gold) == NANO.num_guilds
    assert max(gold.values()) - min(gold.values()) <= 1


def test_check_notices_a_changed_byte(tmp_path):
    folder = ship.write_data(NANO, tmp_path)
    path = folder / "rules.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"answer": 0', b'"answer": 1', 1)))
    cut = folder / "facts.jsonl.gz"
    cut.write_bytes(cut.read_bytes()[:-9])
    (folder.parent / "nano_facts" / "train.jsonl.gz").unlink()
    (folder / "more.jsonl.gz").touch()
    wrong = ["nano/facts.jsonl.gz", "nano/more.jsonl.gz", "nano/rules.jsonl.gz", "nano_facts/train.jsonl.gz"]
    assert ship.check_data(NANO, tmp_path) == wrong
    path = ship.write_tasks(NANO, tmp_path) / "eight_1.yaml"
    path.write_text(path.read_text().replace("ton", "cat"))
    assert ship.check_tasks(NANO, tmp_path) == ["nano/eight_1.yaml"]


def test_model_has_the_papers_ratios(model):
    parameters = sum(p.numel() for p in model.parameters())
    outside = model.get_input_embeddings().weight.numel() + model.get_output_embeddings().weight.numel()
    assert 0.85e6 <= parameters <= 1.1e6
    assert outside <= parameters / 10
    assert len(model.model.layers) == 16
    assert sum(n.endswith("_proj") for n, _ in model.named_modules()) == 112
    config = AutoConfig.from_pretrained(ASSETS / NANO.model_dir)
    assert not config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert all(p.dtype.is_floating_point and p.element_size() == 4 for p in model.parameters())


def test_tokenizer_knows_every_word(world, tokenizer, sentences, model):
    assert len(tokenizer) == model.config.vocab_size <= 680
    texts = [f"{r.prompt} {r.response}" for r in world.train + world.validation]
    texts += [f"{i.prompt} {o}" for name in ITEMS for i in getattr(world, name) for o in i.options]
    texts = sorted({*texts, *sentences})
    encoded = tokenizer(texts)["input_ids"]
    assert all(ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids for ids in encoded)
    assert all(len(ids) == len(text.split()) + 1 for ids, text in zip(encoded, texts, strict=True))
    assert tokenizer.batch_decode(encoded[:500], skip_special_tokens=True) == texts[:500]
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)


def test_model_knows_old_facts_and_no_new_ones(model, tokenizer, world):
    from layerfit.world.pretrain import accuracy

    assert accuracy(model, tokenizer, world.retention[:400]) > 0.8
    assert abs(accuracy(model, tokenizer, world.facts_dev) - 0.25) < 3 * (0.25 * 0.75 / 520) ** 0.5


# One column of 1,875 items: the standard error at chance is sqrt(0.1875 / 1875) = 0.01.
GOOD = Evidence(
    scores={
        "vanilla": {"facts": [0.265]},  # 1.5 standard errors
        "full": {"facts": [0.79, 0.81]},  # mean 0.80, deviation sqrt(0.0002) = 0.01414
        "lora": {"facts": [0.69, 0.71]},  # mean 0.70, the same deviation: 0.10 / 0.01414 = 7.07
    },
    items={"facts": 1875},
    location={0: {"facts": 0.5}, 15: {"facts": 0.6}},  # 0.1 against 3 * sqrt(0.25/1875 + 0.24/1875) = 0.0485
)


def verdicts(evidence):
    return [gate.passed for gate in gates(evidence)]


def only(evidence, index):
    return gates(evidence)[index]


def test_all_pass_and_say_their_numbers():
    assert verdicts(GOOD) == [True] * 4
    assert standard_error(0.25, 1875) == pytest.approx(0.01)
    untrained, full, apart, depth = (gate.detail for gate in gates(GOOD))
    assert "0.265 (+1.5 standard errors)" in untrained
    assert "facts 0.800" in full
    assert "full - lora = 0.100 (7.1 seed deviations)" in apart
    assert "block 15 0.600, block 0 0.500" in depth


@pytest.mark.parametrize(("score", "passed"), [(0.2699, True), (0.2701, False), (0.2301, True), (0.2299, False)])
def test_untrained_within_two_standard_errors(score, passed):
    assert only(replace(GOOD, scores={**GOOD.scores, "vanilla": {"facts": [score]}}), 0).passed is passed


@pytest.mark.parametrize(("mean", "passed"), [(0.59, False), (0.61, True), (0.94, True), (0.96, False)])
def test_full_in_its_range(mean, passed):
    assert only(replace(GOOD, scores={**GOOD.scores, "full": {"facts": [mean, mean]}}), 1).passed is passed


def test_one_column_out_of_range_fails_the_first_two_gates():
    scores = {
        "vanilla": {"facts": [0.25], "rules": [0.40]},
        "full": {"facts": [0.8, 0.8], "rules": [0.99, 0.99]},
    }
    evidence = Evidence(scores, items={"facts": 1875, "rules": 1875})
    assert verdicts(evidence)[:2] == [False, False]


def test_methods_closer_than_five_deviations_fail():
    scores = {**GOOD.scores, "lora": {"facts": [0.73, 0.75]}}  # 0.06 / 0.01414 = 4.24
    gate = only(replace(GOOD, scores=scores), 2)
    assert not gate.passed
    assert "4.2 seed deviations" in gate.detail


def test_one_column_far_enough_apart_is_enough_and_vanilla_is_no_method():
    scores = {row: {**columns, "rules": [0.5, 0.52]} for row, columns in GOOD.scores.items()}
    both = Evidence(scores, items={"facts": 1875, "rules": 1875})
    assert only(both, 2).passed
    without_lora = {row: columns for row, columns in scores.items() if row != "lora"}
    assert only(replace(both, scores=without_lora), 2).detail.startswith("not computed")


def test_equal_methods_without_spread_do_not_pass():
    scores = {**GOOD.scores, "full": {"facts": [0.7, 0.7]}, "lora": {"facts": [0.7, 0.7]}}
    assert not only(replace(GOOD, scores=scores), 2).passed


def test_blocks_within_noise_fail():
    gate = only(replace(GOOD, location={0: {"facts": 0.56}, 15: {"facts": 0.6}}), 3)  # 0.04 < 0.0483
    assert not gate.passed


def test_missing_data_are_not_computed_and_never_passed():
    bare = Evidence(scores={}, items={"facts": 1875})
    assert verdicts(bare) == [False] * 4
    assert all(gate.detail.startswith("not computed: ") for gate in gates(bare))
    assert "vanilla on facts" in only(bare, 0).detail
    one_seed = {**GOOD.scores, "full": {"facts": [0.8]}, "lora": {"facts": [0.1]}}
    assert only(replace(GOOD, scores=one_seed), 2).detail.startswith("not computed")
    assert only(replace(GOOD, location={3: {"facts": 0.5}}), 3).detail.startswith("not computed")
    partly = replace(GOOD, items={"facts": 1875, "rules": 1875})
    assert verdicts(partly) == [False, False, True, True]


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="at least one column"):
        gates(replace(GOOD, items={}))
    with pytest.raises(ValueError, match=r"got nan"):
        gates(replace(GOOD, scores={"full": {"facts": [float("nan")]}}))
    with pytest.raises(ValueError, match=r"got 80"):
        gates(replace(GOOD, scores={"full": {"facts": [80]}}))
    with pytest.raises(ValueError, match="positive"):
        gates(replace(GOOD, items={"facts": 0}))
