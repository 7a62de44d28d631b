"""The embedded worlds together: shipped as generated, told apart, of one shape; and the tasks that lm-eval reads."""

import gzip
import json
import re

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from layerfit import config
from layerfit.errors import UserError
from layerfit.evaluation.lm_eval import tasks
from layerfit.launch.preflight import check_world, preflight
from layerfit.models.packed import PACKED, WEIGHTS
from layerfit.world import ship
from layerfit.world.gates import standard_error
from layerfit.world.generate import make_world
from layerfit.world.language import RELATIONS, coin_language
from layerfit.world.spec import ASSETS, WORLDS

NANO = WORLDS["nano"]
SIBLINGS = [name for name in WORLDS if name != "nano"]
TESTS = ("facts", "rules", "retention")
ITEMS = (*TESTS, "facts_dev", "rules_dev")


def lines(path):
    return [json.loads(line) for line in gzip.decompress((ASSETS / path).read_bytes()).splitlines()]


def carded(name):
    """Scores before fine-tuning, by the model's card: column -> share right."""
    rows = (ASSETS / WORLDS[name].model_dir / "README.md").read_text().splitlines()
    cells = [row.split("|")[1:3] for row in rows if row.startswith(f"| {name}_")]
    return {task.strip().removeprefix(f"{name}_"): float(score) for task, score in cells}


@pytest.fixture(scope="module")
def manager():
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(ASSETS.parent / "tasks"), include_defaults=False)


def docs(manager, name):
    return list(manager.load([name])["tasks"][name].eval_docs)


@pytest.mark.parametrize("name", WORLDS)
def test_shipped_data_and_task_files_are_the_generators(name):
    assert ship.check_data(WORLDS[name]) == []
    assert ship.check_tasks(WORLDS[name]) == []


@pytest.mark.parametrize("name", WORLDS)
def test_the_two_kinds_of_rows_are_the_mix_taken_apart(name):
    spec = WORLDS[name]
    for file in ("train.jsonl.gz", "validation.jsonl.gz"):
        mix = lines(spec.dataset_dir / file)
        facts, signs = (lines(spec.half_dir(kind) / file) for kind in ("facts", "rules"))
        assert facts == [row for row in mix if "sign" not in row["response"]]
        assert signs == [row for row in mix if row["response"].endswith("sign")]
        assert len(facts) + len(signs) == len(mix)


@pytest.mark.parametrize("name", WORLDS)
def test_configurations_pin_the_rows_and_name_what_is_shipped(name):
    spec = WORLDS[name]
    folders = {name: spec.dataset_dir} | {f"{name}_{kind}": spec.half_dir(kind) for kind in ("facts", "rules")}
    for data, folder in folders.items():
        with config.composer():
            run = config.compose([f"model={name}", f"dataset={data}", f"eval={name}"])
        assert run.dataset.num_rows == len(lines(folder / "train.jsonl.gz"))
        assert (run.model.id, run.dataset.id) == (f"layerfit/{name}", f"layerfit/{data}")
        assert [task.name for task in run.eval.tasks] == [f"{name}_{column}" for column in TESTS]


def test_assets_are_small_and_say_what_they_are():
    shipped = [p for p in ASSETS.rglob("*") if p.is_file() and p.name != WEIGHTS]
    assert sum(p.stat().st_size for p in shipped) <= 9e6
    for spec in WORLDS.values():
        assert (ASSETS / spec.model_dir / PACKED).stat().st_size <= (3.2 if spec is NANO else 1.3) * 1e6
        for folder in (spec.model_dir, spec.dataset_dir, spec.half_dir("facts"), spec.half_dir("rules")):
            assert "license: apache-2.0" in (ASSETS / folder / "README.md").read_text()


@pytest.mark.parametrize("name", WORLDS)
def test_cards_say_at_chance_before_fine_tuning_and_old_facts_known(name):
    scores = carded(name)
    assert scores["retention"] > 0.95
    for column in ("facts", "rules"):
        error = standard_error(0.25, len(lines(WORLDS[name].dataset_dir / f"{column}.jsonl.gz")))
        assert abs(scores[column] - 0.25) <= 2 * error


@pytest.mark.parametrize("name", SIBLINGS)
def test_siblings_have_nanos_shape_and_another_language(name):
    spec = WORLDS[name]
    assert spec.model == NANO.model
    ours, theirs = (AutoConfig.from_pretrained(ASSETS / world.model_dir).to_dict() for world in (NANO, spec))
    differs = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differs <= {"vocab_size", "dtype", "_name_or_path"}
    assert 2 * theirs["vocab_size"] * NANO.model.width <= 0.1 * 0.9e6
    words, nanos = (set(coin_language(world).vocabulary()) for world in (spec, NANO))
    assert len(words & nanos) < 100  # function words, and what was coined twice by chance


@pytest.mark.slow
@pytest.mark.parametrize("name", SIBLINGS)
def test_siblings_score_what_their_cards_say(name):
    from layerfit.world.pretrain import accuracy

    spec = WORLDS[name]
    module = AutoModelForCausalLM.from_pretrained(ASSETS / spec.model_dir, dtype="float32")
    tokens = AutoTokenizer.from_pretrained(ASSETS / spec.model_dir)
    scores = {column: accuracy(module, tokens, getattr(make_world(spec), column)) for column in TESTS}
    assert scores == pytest.approx(carded(name), abs=0.001)


@pytest.mark.exhaustive
def test_a_sibling_is_pretrained_again_to_what_is_shipped():
    """Minutes. On another CPU or build the weights may differ, never what the model knows."""
    assert not [wrong for wrong in ship.check_model(WORLDS["nano_e"]) if "DIFFERS" in wrong or ".json" in wrong]


def test_lm_eval_reads_the_tasks(manager):
    columns = (*ITEMS, *(f"eight_{i}" for i in range(1, 9)))
    assert sorted(manager.all_tasks) == sorted(f"{world}_{name}" for world in WORLDS for name in columns)
    task = manager.load(["nano_rules_dev"])["tasks"]["nano_rules_dev"]
    doc = task.eval_docs[0]
    assert doc == lines(NANO.dataset_dir / "rules_dev.jsonl.gz")[0]
    assert task.doc_to_choice(doc) == doc["options"]
    assert task.doc_to_target(doc) == doc["answer"]
    assert task.config.target_delimiter == " "


@pytest.mark.parametrize("name", ["nano", "nano_e"])
def test_eight_parts_are_the_items_taken_apart(manager, name):
    parts = [docs(manager, f"{name}_eight_{i}") for i in range(1, 9)]
    columns = {column: lines(WORLDS[name].dataset_dir / f"{column}.jsonl.gz") for column in TESTS}
    for taken, column in ((parts[:4], "facts"), (parts[4:6], "rules"), (parts[6:], "retention")):
        assert sorted(str(item) for part in taken for item in part) == sorted(map(str, columns[column]))
    phrasings = {re.compile(p.format(who=r"\w+ \w+")): r for r, ps in RELATIONS.items() for p in ps}

    def relations(part):
        return {r for i in part for phrasing, r in phrasings.items() if phrasing.fullmatch(i["prompt"])}

    assert [relations(part) for part in parts[:4]] == [{"home"}, {"craft"}, {"pet"}, {"meal"}]
    assert [relations(part) for part in parts[6:]] == [{"home", "craft"}, {"pet", "meal"}]
    first, second = ({i["prompt"].split()[-1] for i in part} for part in parts[4:6])
    assert max(first) < min(second)
    assert len(first) == len(second)


def test_embedded_tasks_need_none_of_lm_evals_own(monkeypatch):
    """Reading its 14,000 files costs every run half a second."""
    with config.composer():
        run = config.compose(["eval=nano_b_eight"])
    read = tasks.definitions

    def definitions(root):
        assert root != tasks.stock_folder()
        return read(root)

    monkeypatch.setattr(tasks, "definitions", definitions)
    assert tasks.folders_of(run.eval) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("model=nano dataset=nano_b eval=none", "model=nano knows no word of dataset=nano_b, .* use model=nano_b"),
        ("model=nano_c dataset=nano_rules eval=none", "no word of dataset=nano_rules, .* use model=nano$"),
        ("model=nano_b dataset=nano_b_facts eval=nano_eight", "no word of eval=nano_eight, .* use model=nano$"),
        ("model=nano dataset=nano eval=nano_d_dev", "no word of eval=nano_d_dev, .* use model=nano_d"),
    ],
)
def test_another_worlds_words_are_refused(overrides, said):
    with config.composer():
        run = config.compose([*overrides.split(), "method=full"])
    with pytest.raises(UserError, match=said):
        preflight(run)


@pytest.mark.parametrize(
    "overrides",
    [
        "model=nano_b dataset=nano_b_facts eval=nano_b_eight",
        "model=nano_b method=vanilla eval=nano_b",
        "model=tinyllama",
    ],
)
def test_its_own_words_are_not(overrides):
    with config.composer():
        check_world(config.compose(overrides.split()))
