"""What is found in data and chat templates before anything starts, each in one line."""

import json
import re
import shutil
from pathlib import Path

import pytest

from layerfit.cli import main
from layerfit.config.schema import DatasetConfig, HubConfig, ModelConfig
from layerfit.data import check, rehearse
from layerfit.data.check import check_dataset, check_template
from layerfit.errors import UserError
from layerfit.models.hub import EMBEDDED

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_cases = pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason=f"no inputs at {SHARED / 'cases'}")
ROW = {"prompt": "sign of home", "response": "left"}
TALK = [{"role": "user", "content": "sign of home"}, {"role": "assistant", "content": "left"}]
GREETED = [{"role": "assistant", "content": "left"}, *TALK]


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def local(path, **more):
    return DatasetConfig(
        **{"name": "local", "id": "local", "path": str(path), "form": "auto", "template": "auto", "seed": 0} | more
    )


def test_held_out_rows_need_something_to_learn(tmp_path):
    write(tmp_path / "d" / "train.jsonl", [ROW] * 4)
    write(tmp_path / "d" / "validation.jsonl", [ROW | {"response": text} for text in ("", " ")])
    with pytest.raises(UserError, match=r"none of the 2 rows of dataset.validation_split=validation has anything"):
        check_dataset(local(tmp_path / "d", validation_split="validation"), HubConfig())
    check_dataset(local(tmp_path / "d", num_validation=2), HubConfig())
    one = write(tmp_path / "one.jsonl", [ROW] + [ROW | {"response": ""}] * 9)
    with pytest.raises(UserError, match="none of the 5 held-out rows has anything to learn"):
        check_dataset(local(one, num_validation=5), HubConfig())


def test_a_probe_batch_must_fit_the_held_out_rows(tmp_path):
    path = write(tmp_path / "d.jsonl", [ROW] * 20)
    check_dataset(local(path, num_validation=8), HubConfig(), ("validation", 8))
    check_dataset(local(path, num_validation=8), HubConfig(), ("train", 16))
    with pytest.raises(UserError, match="a probe batch of 16 rows cannot be drawn from the 8 held-out rows"):
        check_dataset(local(path, num_validation=8), HubConfig(), ("validation", 16))


@pytest.mark.parametrize("words", ["dataset=nano dataset.validation_split=null", "dataset=local dataset.path=d.jsonl"])
def test_more_rows_to_hold_out_than_there_are(tmp_path, monkeypatch, capfd, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d.jsonl", [ROW] * 3)
    assert main([*words.split(), "method=full", "model=nano", "eval=none", "dataset.num_validation=99999999"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert re.search("dataset.num_validation=99,?999,?999 (leaves none|holds out all) of", line)
    assert not (tmp_path / "results").exists()


def test_only_the_first_row_of_a_large_file_is_read_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_READ_WHOLE", 10)
    path = write(tmp_path / "d.jsonl", [ROW, {"prompt": "a"}])
    check_dataset(local(path), HubConfig())
    write(path, [{"prompt": "a"}, ROW])
    with pytest.raises(UserError, match=r"d.jsonl, first row: .* the text column 'response'"):
        check_dataset(local(path, form="prompt"), HubConfig())


CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
FIRST = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML
TEMPLATES = {
    "usable": (CHATML, GREETED, None),
    "without a greeting": (FIRST, GREETED, None),
    "raises TypeError": ("{{ messages[0].content + 1 }}", TALK, r"d.jsonl:1: .*refuses the roles user: can only conc"),
    "divides by zero": ("{{ 1 / 0 }}", TALK, "refuses the roles user: division by zero"),
    "no template language": ("{% for %}", TALK, "refuses the roles user: Expected an expression"),
    "refuses a role": (
        CHATML.replace("{{ m.content }}", "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"),
        [{"role": "system", "content": "pet"}, *TALK],
        r"d.jsonl:2: the model's chat template refuses the roles system, user: no; set dataset.template=alpaca",
    ),
    "named, no default": (
        [{"name": "tool_use", "template": CHATML}],
        TALK,
        r"templates \(tool_use\) have none named",
    ),
    "takes all memory": ("{{ ('x' * 10000000000)|length }}", TALK, "refuses the roles user: MemoryError"),
    "never ends": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        TALK,
        "did not end within 2 s",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    source = EMBEDDED / "models" / "layerfit" / "nano"
    for path in source.glob("*.json"):
        shutil.copy(path, folder)
    return ModelConfig(name="m", id="m/m", path=str(folder))


@pytest.mark.parametrize(
    "case",
    [
        "raises TypeError",
        *(pytest.param(case, marks=pytest.mark.slow) for case in TEMPLATES if case != "raises TypeError"),
    ],
)
def test_a_chat_template_is_tried_on_every_shape_of_row(tmp_path, monkeypatch, model, case):
    template, messages, expected = TEMPLATES[case]
    config = Path(model.path) / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template}))
    rows = [{"messages": TALK}] if messages != TALK else []
    path = write(tmp_path / "d.jsonl", [*rows, {"messages": messages}])
    monkeypatch.setattr(rehearse, "MOST_SECONDS", 2)
    chat = local(path, template="chat")
    if expected is None:
        check_template(chat, model, HubConfig())
        return
    with pytest.raises(UserError, match=expected) as error:
        check_template(chat, model, HubConfig())
    assert "\n" not in str(error.value)
