"""Suites ask what the papers' tables ask, evaluate where their data is, and meet mistakes before anything loads."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from layerfit import config
from layerfit.config.schema import EvalConfig, HubConfig, ModelConfig, TaskConfig
from layerfit.errors import UserError
from layerfit.evaluation.generative_tasks import GROUPS, TASKS
from layerfit.evaluation.protocols import PROTOCOLS, Protocol, check_protocols, evaluate
from layerfit.launch.preflight import check_eval
from layerfit.models.hub import load_model, load_tokenizer
from tests.evaluation.test_agieval import MIRRORED
from tests.evaluation.test_command_line import MIRROR, STORIES, needs_mirror

HUB = HubConfig(mirror=str(MIRROR), offline=True)
NANO = ModelConfig(name="nano", id="layerfit/nano", num_layers=16, max_positions=128)
SUITES = {
    "lisa_suite": [("mmlu", 5), ("agieval_mc_by_subset", 3), ("winogrande", 5)],
    "ila_suite": [("mmlu", 5), ("hellaswag", 0)],
    "lisa_tables": [("mmlu", 5), ("agieval_mc_by_subset", 3), ("winogrande", 5)],
    "ila_tables": [("mmlu", 5), ("hellaswag", 0)],
    "hellaswag": [("hellaswag", 0)],
    "agieval": [("agieval_mc_by_subset", 3)],
    "commonsense": [("commonsense_average", 0)],
    "commonsense_generative": [("commonsense_generative", 0)],
    "arithmetic": [("arithmetic_generative", 0)],
    "wikitext_ppl": [("wikitext_ppl", 0)],
}


@pytest.fixture(scope="module")
def suites():
    with config.composer():
        return {name: config.compose([f"eval={name}"]).eval for name in SUITES}


@pytest.mark.parametrize("name", SUITES)
def test_what_a_suite_asks(name, suites):
    assert [(task.name, task.num_fewshot) for task in suites[name].tasks] == SUITES[name]
    assert all(task.hub_ids() for task in suites[name].tasks)
    check_protocols(suites[name], HubConfig())


def test_generative_groups_say_their_data(suites):
    for name in ("commonsense_generative", "arithmetic"):
        [task] = suites[name].tasks
        assert sorted(task.hub_ids()) == sorted({TASKS[member].dataset for member in GROUPS[task.name]})


def test_a_task_has_one_protocol_and_old_runs_their_ids(suites):
    old = config.identity_of(suites["ila_suite"])["tasks"][0]
    assert old == {"name": "mmlu", "num_fewshot": 5, "dataset": "cais/mmlu"}
    assert config.identity_of(suites["arithmetic"])["tasks"][0]["protocol"] == "generative"


COMMONSENSE = {
    "aps/super_glue/boolq/validation": {"question": "is it", "passage": "It is.", "idx": 0, "label": 1},
    "baber/piqa/default/validation": {"goal": "g", "sol1": "a", "sol2": "b", "label": 0},
    "lighteval/siqa/default/validation": {"context": "c.", "question": "q?", "label": "2"}
    | {f"answer{x}": x for x in "ABC"},
    "Rowan/hellaswag/default/validation": {
        "activity_label": "A", "ctx": "a b", "ctx_a": "a", "ctx_b": "b", "endings": list("wxyz"), "label": "3",
    },
    "allenai/winogrande/winogrande_xl/validation": {"sentence": "A _ b", "option1": "x", "option2": "y", "answer": "1"},
    "allenai/ai2_arc/ARC-Easy/test": {"question": "q", "answerKey": "1", "id": "0"},
    "allenai/ai2_arc/ARC-Challenge/test": {"question": "q", "answerKey": "C", "id": "0"},
    "allenai/openbookqa/main/test": {"question_stem": "q", "answerKey": "B", "id": "0"},
}  # fmt: skip


@pytest.fixture
def invented(tmp_path):
    """A mirror with one or two invented rows of each commonsense data set, in every split that is read."""
    for number, (path, row) in enumerate(COMMONSENSE.items()):
        folder = tmp_path / "datasets" / Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        if "answerKey" in row:
            row |= {"choices": {"text": list("abcd"), "label": list("1234" if row["answerKey"] == "1" else "ABCD")}}
        for split in ("train", "validation", "test"):
            (folder / f"{split}.jsonl").write_text((json.dumps(row) + "\n") * (1 + number % 2))
    return HubConfig(mirror=str(tmp_path), offline=True)


@pytest.mark.parametrize("name", ["commonsense", "commonsense_generative"])
def test_the_commonsense_suites_evaluate(name, suites, invented):
    check_eval(suites[name], invented)
    module, tokenizer = load_model(NANO, invented, "fp32"), load_tokenizer(NANO, invented)
    scores, items = evaluate(module, tokenizer, suites[name], invented, "cpu")
    value = {score.key: score for score in scores}
    tail = "_generative" if name.endswith("_generative") else ""
    names = ["boolq", "piqa", "social_iqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"]
    mean = value["commonsense_generative/acc" if tail else "commonsense_average/acc"]
    assert mean.value == pytest.approx(sum(value[f"{task}{tail}/acc"].value for task in names) / 8)
    assert mean.num_items == sum(len(items[f"{task}{tail}/acc"]) for task in names) == 12
    assert all(score.num_fewshot == 0 for score in scores)


@needs_mirror
@pytest.mark.slow
def test_every_suite_whose_data_is_mirrored_evaluates(suites):
    tasks = [task for name in ("lisa_suite", "wikitext_ppl") for task in suites[name].tasks]
    tasks = [task for task in tasks if not task.name.startswith("agieval")]
    tasks += [TaskConfig(name=f"agieval_mc_{subset}", num_fewshot=3) for subset in MIRRORED]
    tasks += [TaskConfig(name=name) for name in ("piqa", "social_iqa", "arc_easy")]
    generative = ["piqa_generative", "social_iqa_generative", "winogrande_generative", "arc_easy_generative"]
    tasks += [TaskConfig(name=name, protocol="generative") for name in generative]
    asked = EvalConfig(name="t", tasks=tasks, include="evaluation/task_files", limit=1, batch_size=8)
    check_eval(asked, HUB)
    scores, _ = evaluate(load_model(STORIES, HUB, "fp32"), load_tokenizer(STORIES, HUB), asked, HUB, "cpu")
    found = {score.task for score in scores}
    assert {task.name for task in tasks} <= found
    assert len([name for name in found if name.startswith("mmlu")]) == 57 + 4 + 1


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            TaskConfig(name="boolq", protocol="generate"),
            "protocol of task boolq='generate' is not known .did you mean generative..; use one of: lm_ev",
        ),
        (TaskConfig(name="boolq", protocol="generative"), "no generative task 'boolq'"),
        (TaskConfig(name="boolq_generative"), "no task 'boolq_generative'; similar: "),
        (
            TaskConfig(name="boolq_generative", protocol="generative", num_fewshot=1),
            "has num_fewshot=1 but takes no shots",
        ),
        (TaskConfig(name="wikitext", protocol="perplexity"), "no text 'wikitext'"),
        (TaskConfig(name="piqa_generative", protocol="generative"), "piqa_generative cannot read a row of baber/piqa"),
        (TaskConfig(name="boolq_generative", protocol="generative"), "needs the split 'validation' of aps/super_glue"),
        (TaskConfig(name="gsm8k_generative", protocol="generative"), "dataset 'openai/gsm8k' is not here"),
        (TaskConfig(name="x", datasets=["org/none"]), "no task 'x'"),
        (TaskConfig(name="piqa", datasets=["org/none"]), "dataset 'org/none' is not here"),
    ],
)
def test_mistakes_are_met_before_anything_loads(task, message, invented):
    root = Path(invented.mirror) / "datasets"
    (root / "baber/piqa/default/validation.jsonl").write_text('{"goal": "g"}\n')
    (root / "aps/super_glue/boolq/validation.jsonl").unlink()
    with pytest.raises(UserError, match=message) as error:
        check_eval(EvalConfig(name="t", tasks=[task]), invented)
    assert "\n" not in str(error.value)


def test_shots_below_none_are_refused():
    with pytest.raises(UserError, match="num_fewshot of a task=-1"):
        TaskConfig(name="boolq", num_fewshot=-1)


def test_a_new_protocol_is_one_line(monkeypatch):
    monkeypatch.setitem(
        PROTOCOLS,
        "judged",
        Protocol("tests.evaluation.test_suites:judged_check", "tests.evaluation.test_suites:judged"),
    )
    tasks = [TaskConfig(name="mt_bench", protocol="judged"), TaskConfig(name="mt_bench")]
    with pytest.raises(UserError, match="mt_bench twice"):
        check_protocols(EvalConfig(name="t", tasks=tasks), HubConfig())
    asked = EvalConfig(name="t", tasks=tasks[:1], batch_size=3)
    with pytest.raises(UserError, match=r"checked \['mt_bench'\] 3"):
        check_protocols(asked, HubConfig())
    assert evaluate("model", "tokenizer", asked, HubConfig(), "cpu") == ([], {"mt_bench/score": [7.0]})


def judged_check(part, hub):
    raise UserError(f"checked {[task.name for task in part.tasks]} {part.batch_size}")


def judged(model, tokenizer, part, hub, device):
    assert (model, tokenizer, device) == ("model", "tokenizer", "cpu")
    return [], {f"{task.name}/score": [7.0] for task in part.tasks}


def test_checking_imports_nothing_heavy():
    code = (
        "import sys; from layerfit.evaluation.protocols import check_protocols; from layerfit.config.schema import *;"
        "tasks = [TaskConfig(name='commonsense_generative', protocol='generative'), TaskConfig(name='mmlu'),"
        " TaskConfig(name='wikitext_ppl', protocol='perplexity')];"
        "check_protocols(EvalConfig(name='t', tasks=tasks), HubConfig());"
        "print([m for m in ('torch', 'lm_eval', 'datasets', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_limit_and_batch_size_reach_every_protocol(monkeypatch):
    seen = []
    monkeypatch.setattr("tests.evaluation.test_suites.judged", lambda *given: (seen.append(given[2]), ([], {}))[1])
    for name in PROTOCOLS:
        monkeypatch.setitem(
            PROTOCOLS,
            name,
            Protocol("tests.evaluation.test_suites:judged_check", "tests.evaluation.test_suites:judged"),
        )
    asked = EvalConfig(name="t", limit=2, tasks=[TaskConfig(name=name, protocol=name) for name in PROTOCOLS])
    evaluate(None, None, asked, HubConfig(), "cpu")
    assert seen == [dataclasses.replace(asked, tasks=[task]) for task in asked.tasks]
