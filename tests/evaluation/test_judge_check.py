"""What is checked before a judged run starts, who a run is by its judge, and judges on this machine."""

import dataclasses
import re
import shutil

import pytest

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import HubConfig
from layerfit.errors import UserError
from layerfit.evaluation.judge.check import check_judge
from layerfit.evaluation.judge.files import read_lines
from layerfit.evaluation.judge.run import judged
from layerfit.models.hub import EMBEDDED, load_model, load_tokenizer
from tests.helpers.judge_server import NANO, config, write_bench


@pytest.fixture(scope="module")
def loaded():
    return load_model(NANO, HubConfig(), "fp32"), load_tokenizer(NANO, HubConfig())


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    return write_bench(tmp_path / "data")


CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


@pytest.fixture
def chat_model(tmp_path):
    folder = tmp_path / "chat"
    shutil.copytree(EMBEDDED / "models" / "layerfit" / "nano", folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def test_a_local_judge_rates_under_its_own_name(loaded, data, tmp_path, chat_model):
    asked = config(data, model=None, model_path=str(chat_model), max_judgment_tokens=4, dtype="fp32")
    check_judge(asked.judge, NANO, HubConfig())
    found, _ = judged(*loaded, asked, HubConfig(), "cpu", tmp_path / "run")
    scores = {score.key: score for score in found}
    version = scores["mt_bench/unparsed"].version
    assert re.search(r"judge=local-chat-[0-9a-f]{16}-fp32;served=itself;", version)
    assert scores["mt_bench/unparsed"].value == 1  # a world of made-up words knows no ratings
    lines = read_lines(tmp_path / "run/judge/judgments.jsonl")
    assert len(lines) == 6
    assert any(line["judgment"] for line in lines)


def test_a_local_judge_with_broken_weights_is_met_before_the_run(data, chat_model):
    asked = config(data, model=None, model_path=str(chat_model), dtype="fp32").judge
    weights = chat_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors .*copy|cut"):
        check_judge(asked, NANO, HubConfig())


def test_a_local_judge_of_nan_is_refused(chat_model):
    from safetensors.torch import load_file, save_file

    from layerfit.evaluation.judge.local import LocalJudge

    weights = load_file(chat_model / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, chat_model / "model.safetensors", metadata={"format": "pt"})
    made = JudgeConfig(benchmarks={"mt_bench": None}, model_path=str(chat_model), dtype="fp32")
    with pytest.raises(UserError, match=r"model=eval\.judge: model\.norm\.weight .* holds NaN"):
        LocalJudge(made, HubConfig(), "cpu", 2)


def test_a_template_without_a_system_role_gets_its_text_first(chat_model):
    from layerfit.evaluation.judge.local import LocalJudge

    (chat_model / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "<{{ m['content'] }}>{% endfor %}"
    )
    made = JudgeConfig({"mt_bench": None}, model_path=str(chat_model), dtype="fp32")
    local = LocalJudge(made, HubConfig(), "cpu", 2)
    messages = [{"role": "system", "content": "sofe\n"}, {"role": "user", "content": "eats"}]
    assert local._ids(messages) == local.tokenizer("<sofe\n\neats>", add_special_tokens=False).input_ids


LOOPBACK = "http://127.0.0.1:9/v1"
CASES = [
    ({"base_url": None}, r"no judge for mt_bench: give eval.judge.base_url="),
    ({"base_url": "127.0.0.1:9"}, r"eval.judge.base_url=127.0.0.1:9 is not an http\(s\) address"),
    ({"base_url": "https://api.example.com/v1"}, r"is not on this machine and hub.offline=true"),
    ({"model": None}, r"eval.judge.model is not set"),
    ({"key_variable": "NO_SUCH_KEY"}, r"eval.judge.key_variable=NO_SUCH_KEY is not set in the environment"),
    ({"model_path": "/nowhere"}, r"base_url and eval.judge.model_path name two judges"),
    ({"base_url": None, "model_path": "/nowhere"}, r"model_path=/nowhere is neither a folder nor a hub id"),
    (
        {"base_url": None, "model_path": "a/b", "judgments": 3},
        r"judgments=3, but a judge at .* would be the same",
    ),
    ({"base_url": None, "model_path": "org/none"}, r"model 'org/none' is not here"),
    ({"base_url": None, "model_path": "layerfit/nano"}, r"model_path=layerfit/nano has no chat template"),
    ({"data": "/nowhere"}, r"eval.judge.data=/nowhere is not a folder"),
    ({"data": None}, r"no questions for mt_bench: give eval.judge.data="),
    ({"template": "chat"}, r"model=nano: the model has no chat template and eval.judge.template=chat; name the one"),
]


@pytest.mark.parametrize(("changed", "message"), CASES)
def test_what_cannot_work_is_said_before_anything_starts(data, changed, message):
    asked = config(data, LOOPBACK).judge
    check_judge(asked, NANO, HubConfig(offline=True))
    with pytest.raises(UserError, match=message) as error:
        check_judge(dataclasses.replace(asked, **changed), NANO, HubConfig(offline=True))
    assert "\n" not in str(error.value)


def test_online_any_judge_may_be_asked(data):
    check_judge(config(data, "https://api.example.com/v1").judge, NANO, HubConfig())


def test_a_chat_template_that_only_the_network_could_have_is_looked_at_before_training(loaded):
    from layerfit.evaluation.judge.answers import check_template

    with pytest.raises(UserError, match="no chat template"):
        check_template(JudgeConfig({"mt_bench": None}), loaded[1])
    check_template(JudgeConfig({"mt_bench": None}, template="alpaca"), loaded[1])


def test_where_the_judge_is_does_not_name_a_run_and_who_it_is_does():
    from layerfit.config import compose, composer, identity_of

    with composer():
        asked = compose(["eval=mt_bench", "eval.judge.model=gpt-4-0613", "eval.judge.base_url=http://a/v1"]).eval
        assert "judge" not in identity_of(compose(["eval=nano"]).eval)  # older records stay found
    assert (list(asked.judge.benchmarks), asked.judge.base_url) == (["mt_bench"], "http://a/v1")
    labels = {"base_url": "http://b/v1", "key_variable": "K", "data": "/d", "parallel": 9, "timeout_s": 3}
    assert identity_of(dataclasses.replace(asked.judge, **labels)) == identity_of(asked.judge)
    others = {"model": "gpt-4o", "judgments": 3, "template": "alpaca", "decoding": "greedy", "max_new_tokens": 9}
    for name, value in (others | {"benchmarks": {"mt_bench": "x"}, "model_path": "a/b", "dtype": "fp32"}).items():
        assert identity_of(dataclasses.replace(asked.judge, **{name: value})) != identity_of(asked.judge)
