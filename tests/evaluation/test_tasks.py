"""Scores are lm-eval's, item by item; tasks are checked before anything loads."""

import copy
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from layerfit.config.schema import EvalConfig, HubConfig, TaskConfig
from layerfit.errors import UserError
from layerfit.evaluation.lm_eval.harness import evaluate, standard_error
from layerfit.evaluation.lm_eval.tasks import _names_in, check_tasks, definitions, stock_folder, task_manager

TASK = """
task: {name}
dataset_path: org/colours
dataset_name: {name}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 3}}
"""
GROUP = """
group: colours
task: [warm, cold]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
metadata: {version: 7}
"""
WORDS = ["<unk>", "</s>", "sky", "fire", "is", "red", "blue"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of two tasks and a group, a mirror with their data, and a model that always prefers `red`."""
    root = tmp_path_factory.mktemp("world")
    for name, number in (("warm", 6), ("cold", 2)):
        folder = root / "mirror/datasets/org/colours" / name
        folder.mkdir(parents=True)
        answer = 0 if name == "warm" else 1
        items = [{"prompt": "sky " * i + "is", "options": ["red", "blue"], "answer": answer} for i in range(number)]
        (folder / "test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (root / "tasks").mkdir(exist_ok=True)
        (root / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name))
    (root / "tasks" / "colours.yaml").write_text(GROUP)
    return root


@pytest.fixture(scope="module")
def red():
    """(model, tokenizer): logits that favour `red` whatever was said."""
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>", unk_token="<unk>")
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.fill_(1)
        model.model.norm.weight.fill_(1)
        model.lm_head.weight[WORDS.index("red")] = 1
    return model.train(), tokenizer


def config(*names, **extra):
    tasks = [TaskConfig(name=name) for name in names]
    return EvalConfig(**{"name": "t", "tasks": tasks, "batch_size": 4} | extra)


def asked(world, red, *names, **extra):
    hub = HubConfig(mirror=str(world / "mirror"), offline=True)
    return evaluate(*red, config(*names, include=str(world / "tasks"), **extra), hub, "cpu")


def test_a_group_and_its_tasks(world, red):
    scores, items = asked(world, red, "colours")
    by_key = {score.key: score for score in scores}
    assert {key: score.value for key, score in by_key.items()} == {"cold/acc": 0, "colours/acc": 0.75, "warm/acc": 1}
    assert items == {"warm/acc": [1] * 6, "cold/acc": [0] * 2, "colours/acc": [1] * 6 + [0] * 2}
    group = by_key["colours/acc"]
    assert (group.num_items, group.num_available, group.version, by_key["cold/acc"].version) == (8, 8, "7", "3")
    assert group.stderr == pytest.approx(np.std(items["colours/acc"], ddof=1) / 8**0.5)
    assert len({score.docs for score in scores}) == 3
    assert all(score.data_complete and score.higher_is_better for score in scores)


def test_a_limit_shows(world, red):
    [score], items = asked(world, red, "warm", limit=2)
    assert (score.num_items, score.num_available, len(items["warm/acc"])) == (2, 6, 2)
    assert score.docs != asked(world, red, "warm")[0][0].docs


def test_a_cut_copy_shows(world, red):
    readme = world / "mirror/datasets/org/colours/README.md"
    readme.write_text("# colours\n\nCUT: half of it.\n")
    try:
        assert asked(world, red, "warm")[0][0].data_complete is False
    finally:
        readme.unlink()


def test_modes_and_random_state_are_left_as_they_were(world, red):
    model = red[0].train()
    model.lm_head.eval()
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    asked(world, red, "warm")
    assert model.training
    assert not model.lm_head.training
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_adapter_counts_unmerged(world, red):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(copy.deepcopy(red[0]), LoraConfig(r=1, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    assert asked(world, (model, red[1]), "cold")[0][0].value == 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.fill_(1)
            elif "lora_B" in name:
                parameter[WORDS.index("blue")] = 1
    assert asked(world, (model, red[1]), "cold")[0][0].value == 1


def test_an_answer_that_does_not_fit_the_model_is_said(world, red, tmp_path):
    folder = tmp_path / "datasets/org/colours/warm"
    folder.mkdir(parents=True)
    item = {"prompt": "sky is", "options": ["red", "blue " * 40], "answer": 0}
    (folder / "test.jsonl").write_text(json.dumps(item) + "\n")
    hub = HubConfig(mirror=str(tmp_path), offline=True)
    with pytest.raises(UserError, match="longer than the model's 32 positions"):
        evaluate(*red, config("warm", include=str(world / "tasks")), hub, "cpu")


def test_no_tasks_no_scores(red):
    assert evaluate(*red, EvalConfig(name="none"), HubConfig(), "cpu") == ([], {})


def test_missing_data_is_named(world, red, tmp_path):
    hub = HubConfig(mirror=str(tmp_path), offline=True)
    with pytest.raises(UserError, match="dataset 'org/colours' is not here"):
        evaluate(*red, config("warm", include=str(world / "tasks")), hub, "cpu")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["winogrand"], r"no task 'winogrand'; similar: winogrande"),
        (["siqa_"], r"no task 'siqa_'"),
        (["piqa", "piqa"], "lists piqa twice"),
    ],
)
def test_an_unknown_task_is_the_users_to_fix(names, message):
    with pytest.raises(UserError, match=message):
        check_tasks(config(*names))


def test_an_include_that_is_not_there_is_said():
    with pytest.raises(UserError, match=r"eval.include=world/none is not a folder"):
        check_tasks(config("x", include="world/none"))


def test_names_are_read_off_the_text():
    text = "task: a\n\"tag\": 'b'\n  task: inner\ngroup: c # why\n"
    assert _names_in(text) == {"a", "b", "c"}
    assert _names_in("tag:\n    - a\n    - b(c)\ntask:\n  - d\n") == {"a", "b(c)"}
    assert _names_in("tag: [a, b]\ntask: [c]\n") == {"a", "b"}


def test_the_check_imports_neither_lm_eval_nor_torch():
    code = (
        "import sys; from layerfit.evaluation.lm_eval.tasks import check_tasks; from layerfit.config.schema import *;"
        "check_tasks(EvalConfig(name='t', tasks=[TaskConfig(name='mmlu')]));"
        "print([m for m in ('torch', 'lm_eval', 'datasets', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(("values", "error"), [([1.0], None), ([0.0, 1.0], 0.5), ([1.0, 1.0, 1.0], 0.0)])
def test_standard_error(values, error):
    assert standard_error(values) == error


@pytest.mark.slow
def test_the_quick_index_is_lm_evals_own():
    from lm_eval.tasks import TaskManager

    full = TaskManager()
    assert set(full.all_tasks) <= set(definitions(stock_folder()))
    for name in ("mmlu", "winogrande", "piqa", "arc_easy", "hellaswag", "agieval", "social_iqa", "mmlu_stem_tasks"):
        quick, waiting = task_manager(config(name)), [name]
        while waiting:
            mine, theirs = quick.task_index[waiting[-1]], full.task_index[waiting.pop()]
            assert (mine.yaml_path, mine.kind, mine.cfg) == (theirs.yaml_path, theirs.kind, theirs.cfg)
            if mine.kind.name == "TAG":
                assert mine.tags == theirs.tags
                waiting += mine.tags
            elif mine.kind.name == "GROUP":
                waiting += [child for child in mine.cfg["task"] if isinstance(child, str)]
