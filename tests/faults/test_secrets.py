"""No key and no password reaches a file or a screen: planted in every source, looked for in everything that is left."""

import base64
import gzip
import json
import os
import subprocess
import sys
import traceback
import urllib.parse
from pathlib import Path

import pytest

from layerfit import cli
from layerfit.errors import UserError
from layerfit.evaluation.judge.check import KEY_SETTING, check_address
from layerfit.evaluation.judge.client import JudgeError, Server
from layerfit.evaluation.judge.run import judge_all
from layerfit.files import secrets
from layerfit.files.secrets import HIDDEN, hide, hide_in, hide_known, read_key
from layerfit.records import record
from layerfit.records.manifest import command
from tests.faults.test_judge import ASK
from tests.helpers.judge_server import always, completion, fingerprints, judge, write_bench

KEY = "sEcret/key+with=all&kinds\"of'marks-7"
PASSWORD = "pa55-w0rd"


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setattr(secrets, "_read", set())
    monkeypatch.setenv("MY_JUDGE", KEY)
    return read_key(KEY_SETTING, "MY_JUDGE")


def forms(key):
    """All ways in which a key is written by somebody."""
    raw = key.encode()
    yield from (key, json.dumps(key)[1:-1], repr(key)[1:-1])
    yield from (urllib.parse.quote(key), urllib.parse.quote(key, safe=""), urllib.parse.quote_plus(key))
    yield from (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode().rstrip("="))


@pytest.mark.usefixtures("planted")
def test_a_key_is_hidden_in_every_form():
    for form in forms(KEY):
        assert hide(f"<{form}>") == f"<{HIDDEN}>", form
        assert hide_known(f"<{form}>") == f"<{HIDDEN}>", form
    assert hide_in({KEY: [KEY, 1, None, {"a": (KEY,)}]}) == {HIDDEN: [HIDDEN, 1, None, {"a": [HIDDEN]}]}


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "MY_SECRET", "DB_PASSWORD", "GITLAB_PAT"]
)
def test_variables_that_are_named_like_one_are_known(name, monkeypatch):
    monkeypatch.setenv(name, KEY)
    assert hide(f"a {KEY} b") == f"a {HIDDEN} b"


@pytest.mark.parametrize(
    "value", ["", "x", "EMPTY", "none", "layerfit", "12345678", "0.12345678", "~/.ssh/id_1", "/a/b1C"]
)
def test_placeholders_words_numbers_and_paths_are_no_secrets(value, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", value)
    text = f"model layerfit/nano, loss 0.12345678, {value}, EMPTY, none, x"
    assert hide(text) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"http://user:{PASSWORD}@host/v1", f"http://{HIDDEN}@host/v1"),
        (f"proxy https://{PASSWORD}@host:8080, then", f"proxy https://{HIDDEN}@host:8080, then"),
        (f"GET /v1?a=1&api_key={PASSWORD}&b=2", f"GET /v1?a=1&api_key={HIDDEN}&b=2"),
        (f"s3?X-Amz-Signature={PASSWORD}", f"s3?X-Amz-Signature={HIDDEN}"),
        (f"Authorization: Bearer {PASSWORD}", f"Authorization: Bearer {HIDDEN}"),
        (f"{{'authorization': 'Basic {PASSWORD}'}}", f"{{'authorization': 'Basic {HIDDEN}'}}"),
        (f"{{'x-api-key': b'{PASSWORD}'}}", f"{{'x-api-key': b'{HIDDEN}'}}"),
        (f"bearer {PASSWORD} is wrong", f"bearer {HIDDEN} is wrong"),
        ("Incorrect API key provided: sk-proj-abc*****wxyz.", f"Incorrect API key provided: {HIDDEN}."),
        ("hf_ABCDEFGHIJKLMNOPQRSTUVWX", HIDDEN),
    ],
)
def test_what_looks_like_one_is_hidden(text, kept):
    assert hide(text) == kept
    assert hide(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8000/v1?a=1#b", "mail me@host", "https://host/a@b", "the bearer of bad news",
        "task-12345678901234",
        "authorization is needed", "token 5 of 7", "lr=1e-4&seed=0", "basic lora-r16-alpha32", "hf_transfer",
    ],
)  # fmt: skip
def test_other_text_stays(text):
    assert hide(text) == text


@pytest.mark.parametrize("around", ["\r", "\n", "\r\n", " ", "\t"])
def test_white_space_around_a_key_is_no_part_of_it(around, monkeypatch):
    monkeypatch.setenv("MY_JUDGE", f"{KEY}{around}")
    assert read_key(KEY_SETTING, "MY_JUDGE") == KEY
    assert hide(f"{KEY}{around}").strip() == HIDDEN


@pytest.mark.parametrize(
    "key", ["", "  ", "\n", "two words-12345", "line\nbreak-12345", "schl\u00fcssel-12345", "a\x7fb-12345"]
)
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key, monkeypatch):
    monkeypatch.setenv("MY_JUDGE", key)
    with pytest.raises(UserError, match=r"eval\.judge\.key_variable=MY_JUDGE") as error:
        read_key(KEY_SETTING, "MY_JUDGE")
    assert "\n" not in str(error.value)
    assert "12345" not in str(error.value)


@pytest.mark.parametrize("name", [KEY, "sk-abc", "abcdefgh", "lower_case"])
def test_a_key_in_place_of_its_variables_name_is_not_shown(name):
    with pytest.raises(UserError, match="names no variable that is set") as error:
        read_key(KEY_SETTING, name)
    assert name not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [f"http://user:{PASSWORD}@127.0.0.1/v1", f"http://{PASSWORD}@h/v1", f"http://h/v1?key={PASSWORD}",
     f"http://h/v1#{PASSWORD}", f"http://user:{PASSWORD}/x@h/v1", f"user:{PASSWORD}@h"],
)  # fmt: skip
def test_an_address_with_a_password_is_refused_with_the_fix_and_not_shown(url):
    with pytest.raises(UserError, match=r"export the key .*eval\.judge\.key_variable=JUDGE_KEY") as error:
        check_address(url)
    assert PASSWORD not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_password_on_the_command_line_is_refused_and_not_shown(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_TOKEN", KEY)
    for word in (f"eval.judge.base_url=http://u:{PASSWORD}@h/v1", f"label={KEY}", f"hub.mirror=http://{PASSWORD}@h"):
        assert cli.main(["model=nano", word]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.count("\n") == 1
        assert "holds a key or a password" in error
        assert PASSWORD not in error
        assert KEY not in error
    assert list(tmp_path.iterdir()) == []


def server(url, key):
    return Server(url, "judge", key, 9, 20.0, 1, 1, 0.001)


ECHOES = {
    "refused": lambda key: (401, {}, json.dumps({"error": {"message": f"Incorrect API key: {key}"}})),
    "cut": lambda key: (401, {}, "x" * 180 + key),
    "no completion": lambda key: (200, {}, f"{key} is wrong"),
    "no text": lambda key: (200, {}, json.dumps({"choices": [{"message": {"content": {"key": key}}}]})),
    "an error": lambda key: (500, {}, f"Authorization: Bearer {key}"),
}


@pytest.mark.parametrize("name", ECHOES)
def test_an_error_that_echoes_the_key_does_not_pass_it_on(name, planted):
    with judge(always(ECHOES[name](planted))) as (url, _), pytest.raises(JudgeError) as error:
        server(url, planted).ask([{"role": "user", "content": "U"}])
    text = "".join(traceback.format_exception(error.value))
    for form in forms(KEY):
        assert form not in text
        assert form[:12] not in text
    assert KEY not in repr(server(url, planted))


def test_a_judgment_that_echoes_the_key_is_kept_without_it(planted, tmp_path):
    text = f"http://user:quoted@host is bad. {planted} Rating: [[7]]"
    with judge(always(completion(text, model=planted, system_fingerprint=planted))) as (url, _):
        [line] = judge_all(server(url, planted), "judge", [ASK], "m", tmp_path / "j.jsonl")
    assert (line["judgment"], line["score"]) == (f"http://user:quoted@host is bad. {HIDDEN} Rating: [[7]]", 7)
    assert (line["judge_model"], line["system_fingerprint"]) == (HIDDEN, HIDDEN)
    assert planted not in (tmp_path / "j.jsonl").read_text()


def test_records_and_manifests_have_none(planted, tmp_path):
    result = record.Result({"model": {"name": "nano"}}, "failed", f"no {planted}")
    measured = record.Measured(manifest={"command": command(["layerfit", f"a={planted}"]), "sources": {"m": planted}})
    run_id = record.id_of(result.config)
    path = record.write(record.Record(run_id, "full", planted, result, measured), {}, tmp_path)
    for form in forms(KEY):
        assert form not in path.read_text()
    assert record.read(tmp_path, run_id).result.message == f"no {HIDDEN}"
    assert command(["layerfit", f"a={planted}"]) == ["layerfit", f"a={HIDDEN}"]


def test_all_that_is_printed_is_hidden(planted, capsys):
    out = sys.stdout
    with secrets.hidden_output(), secrets.hidden_output():
        print("a", planted, file=sys.stdout)
        sys.stderr.writelines([planted, "\n"])
        assert isinstance(sys.stdout.isatty(), bool)
    assert sys.stdout is out
    print(planted)
    assert capsys.readouterr() == (f"a {HIDDEN}\n{planted}\n", f"{HIDDEN}\n")


def test_a_traceback_of_the_command_is_hidden():
    code = (
        "import os\nfrom layerfit import cli\n"
        "def fail(words): raise OSError('no ' + os.environ['MY_TOKEN'])\n"
        "cli.chosen = fail\ncli.main(['x'])"
    )
    environment = {**os.environ, "MY_TOKEN": KEY, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert f"OSError: no {HIDDEN}" in done.stderr
    assert done.returncode == 1


def contents(folder):
    """Every file below a folder, unpacked."""
    for path in folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            yield path, gzip.decompress(raw) if path.suffix == ".gz" else raw


@pytest.mark.slow
@pytest.mark.usefixtures("own_server")
@pytest.mark.parametrize("behaviour", ["echoes", "refuses", "crashes"])
def test_a_whole_run_leaves_no_key_anywhere(behaviour, tmp_path, monkeypatch, capfd):
    data = write_bench(tmp_path / "data")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    monkeypatch.setenv("MY_JUDGE", f"{KEY}\r")
    monkeypatch.setenv("HF_TOKEN", "hf-Planted-1234567")
    monkeypatch.setenv("WANDB_API_KEY", "wandb-Planted-1234567")
    everything = f"{KEY} {base64.b64encode(KEY.encode()).decode()} hf-Planted-1234567 wandb-Planted-1234567"
    replies = {
        "echoes": completion(f"{everything} Rating: [[7]]", model=KEY),
        "refuses": (401, {}, json.dumps({"error": {"message": f"wrong: {everything}"}})),
        "crashes": (200, {}, f"{{'key': '{everything}'}}"),
    }
    with judge(always(replies[behaviour])) as (url, seen):
        words = ["model=nano", "dataset=nano", "method=full", "training.max_steps=2", "engine=torch", "eval=mt_bench"]
        words += [
            f"eval.judge.data={data}",
            f"eval.judge.benchmarks.mt_bench={fingerprints(data, 'mt_bench')['mt_bench']}",
        ]
        words += ["eval.judge.template=plain", "eval.judge.model=j", f"eval.judge.base_url={url}", "hub.offline=true"]
        words += ["eval.judge.max_new_tokens=6", "eval.judge.max_attempts=1", "eval.judge.key_variable=MY_JUDGE"]
        assert cli.main(words) == (0 if behaviour == "echoes" else 1)
    assert seen[0]["headers"]["Authorization"] == f"Bearer {KEY}"
    looked_at = dict(contents(work)) | {Path("printed"): "".join(capfd.readouterr()).encode()}
    assert any(path.name == "log.txt" for path in looked_at)
    assert any(path.parent.name == "runs" for path in looked_at)
    for path, raw in looked_at.items():
        for form in (*forms(KEY), "hf-Planted-1234567", "wandb-Planted-1234567"):
            assert form.encode() not in raw, path
