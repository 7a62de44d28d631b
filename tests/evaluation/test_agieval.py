"""AGIEval: zero-shot as lm-eval's command line, shots as built by hand and never the item itself, both aggregates."""

import json
import random

import numpy as np
import pytest

from layerfit.config.schema import EvalConfig, HubConfig, TaskConfig
from layerfit.data.redirect import local_datasets
from layerfit.evaluation.lm_eval.harness import _ask, evaluate
from layerfit.evaluation.lm_eval.published import NUM_ITEMS
from layerfit.evaluation.lm_eval.tasks import task_manager
from layerfit.models.hub import load_model, load_tokenizer
from tests.evaluation.test_command_line import MIRROR, STORIES, command_line, needs_mirror
from tests.evaluation.test_tasks import red  # noqa: F401 - a fixture

INCLUDE = "evaluation/task_files"
SUBSETS = ["aqua_rat", "gaokao_english", "logiqa_en", "lsat_ar", "lsat_lr", "lsat_rc", "sat_en"]
SUBSETS += ["sat_en_without_passage", "sat_math"]
MIRRORED = ["aqua_rat", "lsat_ar", "lsat_lr", "sat_math"]
HUB = HubConfig(mirror=str(MIRROR), offline=True)


def config(*names, shots=0, **extra):
    tasks = [TaskConfig(name=name, num_fewshot=shots) for name in names]
    return EvalConfig(name="t", include=INCLUDE, tasks=tasks, **{"batch_size": 8} | extra)


def prompts(name, shots, limit=None):
    """What would be asked: (item, context, continuations) of every item, without a model."""
    from lm_eval.api.model import LM

    class Silent(LM):
        max_length = 10**6

        def loglikelihood(self, requests, **_):
            return [(0.0, False) for _ in requests]

        loglikelihood_rolling = generate_until = None

    Silent.__abstractmethods__ = frozenset()
    chosen = config(name, shots=shots)
    with local_datasets(HUB):
        samples = _ask(Silent(), task_manager(chosen), [name], shots, limit)["samples"][name]
    for sample in samples:
        arguments = sample["arguments"]
        yield sample["doc"], arguments[0][0], [continuation for _, continuation in arguments]


@needs_mirror
@pytest.mark.slow
@pytest.mark.parametrize("subset", MIRRORED)
def test_three_shots_are_those_built_by_hand(subset):
    [file] = (MIRROR / f"datasets/hails/agieval-{subset.replace('_', '-')}").rglob("test*.parquet")
    import pyarrow.parquet

    docs, draw = pyarrow.parquet.read_table(file).to_pylist(), random.Random(1234)  # lm-eval's seed of the shots
    asked = list(prompts(f"agieval_mc_{subset}", 3))
    assert len(asked) == len(docs)
    for doc, (item, context, continuations) in zip(docs, asked, strict=True):
        drawn = draw.sample(docs, 4)  # one more than needed: it may be the item
        shots = [other for other in drawn if other != doc][:3]
        parts = [f"{shot['query']} {shot['choices'][shot['gold'][0]]}" for shot in shots]
        assert item == doc
        assert context == "\n\n".join([*parts, doc["query"]])
        assert continuations == [f" {choice}" for choice in doc["choices"]]
        assert context.count(doc["query"]) == 1


@needs_mirror
@pytest.mark.slow
def test_zero_shot_items_equal_lm_evals_command_line(tmp_path):
    module, tokenizer = load_model(STORIES, HUB, "fp32"), load_tokenizer(STORIES, HUB)
    mine = config(*[f"agieval_mc_{subset}" for subset in MIRRORED], limit=30, batch_size=16)
    _, items = evaluate(module, tokenizer, mine, HUB, "cpu")
    stock = [f"agieval_{subset}" for subset in MIRRORED]
    theirs = command_line(MIRROR / "models/karpathy/stories260K", stock, 0, 30, tmp_path, mirror=MIRROR)
    assert {key.replace("_mc_", "_"): outcome for key, outcome in items.items()} == theirs
    assert any(0 < sum(outcome) < 30 for outcome in items.values())


@pytest.fixture(scope="module")
def invented(tmp_path_factory):
    """A mirror with nine invented subsets: the k-th has k + 2 items, k of which `red` answers; and their data."""
    root = tmp_path_factory.mktemp("agieval")
    data = {}
    for k, subset in enumerate(SUBSETS):
        folder = root / f"datasets/hails/agieval-{subset.replace('_', '-')}"
        folder.mkdir(parents=True)
        golds = [[0] if i < k else [1] for i in range(k + 2)]
        data[subset] = [
            {"query": f"sky {'is ' * i}", "choices": ["red", "blue"], "gold": g} for i, g in enumerate(golds)
        ]
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data[subset]))
    return root, data


def test_both_aggregates(invented, red):
    hub = HubConfig(mirror=str(invented[0]), offline=True)
    scores, items = evaluate(*red, config("agieval_mc_by_subset"), hub, "cpu")
    value = {score.key: score.value for score in scores}
    share = [k / (k + 2) for k in range(9)]
    assert [value[f"agieval_mc_{subset}/acc"] for subset in SUBSETS] == pytest.approx(share)
    assert value["agieval_mc/acc"] == pytest.approx(sum(range(9)) / sum(k + 2 for k in range(9)))
    assert value["agieval_mc_by_subset/acc"] == pytest.approx(np.mean(share))
    assert len(items["agieval_mc/acc"]) == sum(k + 2 for k in range(9))
    assert "agieval_mc_by_subset/acc" not in items
    assert value.keys() >= {"agieval_mc/acc_norm", "agieval_mc_by_subset/acc_norm"}
    assert not any(score.data_complete for score in scores)  # invented items are not the published ones


def test_any_of_several_right_options_counts(tmp_path, red):
    folder = tmp_path / "datasets/hails/agieval-logiqa-en"
    folder.mkdir(parents=True)
    row = {"query": "sky is", "choices": ["blue", "red", "fire"]}
    golds = [[0, 1], [0, 2], [1]]
    (folder / "test.jsonl").write_text("".join(json.dumps(row | {"gold": gold}) + "\n" for gold in golds))
    hub = HubConfig(mirror=str(tmp_path), offline=True)
    assert evaluate(*red, config("agieval_mc_logiqa_en"), hub, "cpu")[1]["agieval_mc_logiqa_en/acc"] == [1, 0, 1]


def test_the_published_numbers_of_items_add_up():
    assert NUM_ITEMS["agieval_mc"] == NUM_ITEMS["agieval_mc_by_subset"]
    assert NUM_ITEMS["agieval_mc"] == sum(NUM_ITEMS[f"agieval_mc_{subset}"] for subset in SUBSETS)
