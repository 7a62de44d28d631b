"""Requests once met with a traceback, a hang, or not at all: each is one line now, and nothing is written.

The list lies beside the checkout and is not there on every machine; the files that it names are made here.
"""

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from layerfit.models.hub import EMBEDDED
from tests.faults.test_bad_requests import alone, wrong_with
from tests.helpers.bad_requests import Bad

__all__ = ["alone"]

LIST = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "bad_input.tsv"
ROW = {"instruction": "sign of", "input": "", "output": "home"}
BASE = ("model=nano", "dataset=nano", "eval=none")
ELSEWHERE = {
    "dataset.path=dircard3": "it is read now: a card whose entry has no name",
    "--cfg job": "tests/config/test_requests.py",
    "table nano_main": "tests/faults/test_bad_commands.py",
}
"""Requests that are not tried here, and why."""
SAID = ("ranking_data.x", "'nope'")
"""What messages name besides a key or a value as it was given."""

pytestmark = pytest.mark.skipif(not LIST.is_file(), reason=f"{LIST} is not here")


def lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def deep() -> bytes:
    return b'{"instruction": "a", "output": "b", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n"


FILES = {
    "binary.jsonl": os.urandom(64) + b"\xcc",
    "gz.jsonl": gzip.compress(lines(ROW) * 3)[:-9],
    "latin.jsonl": '{"instruction": "caf\xe9", "output": "a"}\n'.encode("latin-1"),
    "utf16.jsonl": lines(ROW).decode().encode("utf-16"),
    "deepobj.jsonl": deep(),
    "bigint.jsonl": b'{"instruction": "a", "output": "b", "x": ' + b"9" * 5000 + b"}\n",
    "listinput.jsonl": lines(ROW | {"input": ["a"]}),
    "dictinput.jsonl": lines(ROW | {"input": {"a": 1}}),
    "numinput.jsonl": lines(ROW | {"input": 1}),
    "surrogateout.jsonl": b'{"instruction": "a", "output": "\\ud83d"}\n',
    "r_result_list.json": b'{"result": [1]}',
    "r_result_num.json": b'{"result": 1}',
    "r_findings_list.json": b'{"result": {"findings": [1]}}',
    "r_scores_null.json": b'{"scores": {"layers.0.mlp.up_proj": null}}',
    "r_scores_nan.json": b'{"scores": {"layers.0.mlp.up_proj": NaN}}',
    "r_scores_allnan.json": b'{"scores": {"layers.0.mlp.up_proj": NaN, "layers.1.mlp.up_proj": NaN}}',
}
CARDS = {
    "dircard": b"---\nconfigs: 5\n---\n",
    "dircard4": b"---\nconfigs:\n- config_name: a\n  data_files: /etc/*\n---\n",
    "dircard6": b"---\nconfigs:\n- [a]\n---\n",
    "dircard7": b"---\n\xff: a\n---\n",
}
CONFIGS = {
    "m_configlist": lambda config: [config],
    "m_confignull": lambda _: None,
    "m_confignum": lambda _: 5,
    "m_layersneg": lambda config: config | {"num_hidden_layers": -1},
    "m_layersfloat": lambda config: config | {"num_hidden_layers": 1.5},
    "m_typelist": lambda config: config | {"model_type": ["llama"]},
    "m_heads0": lambda config: config | {"num_attention_heads": 0},
    "m_posstr": lambda config: config | {"max_position_embeddings": "many"},
    "m_hidden0": lambda config: config | {"hidden_size": 0},
}


def make(name: str, folder: Path) -> bool:
    """Make what a request names; return whether it is one of these."""
    if name not in {*FILES, *CARDS, *CONFIGS, "fifo.jsonl"}:
        return False
    path = folder / name
    if name in FILES:
        path.write_bytes(FILES[name])
    elif name in CARDS:
        path.mkdir()
        (path / "README.md").write_bytes(CARDS[name])
        (path / "train.jsonl").write_bytes(lines(ROW))
    elif name in CONFIGS:
        shutil.copytree(EMBEDDED / "models/layerfit/nano", path)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(CONFIGS[name](config)))
    else:
        os.mkfifo(path)
    return True


def requests() -> list[str]:
    if not LIST.is_file():
        return []
    return [line.split("\t")[1] for line in LIST.read_text().splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("text", requests(), ids=lambda text: text[:80].replace("/", "|"))
def test_it_is_one_line_now(text, alone, monkeypatch, tmp_path):
    if (why := next((why for part, why in ELSEWHERE.items() if part in text), None)) is not None:
        pytest.skip(why)
    given = [word for word in text.split(" ") if word]
    names = [word.removeprefix("ENV:").partition("=")[0].lstrip("+~-") for word in given]
    words = [word for word in given if not word.startswith("ENV:")]
    for word in given:
        if word.startswith("ENV:"):
            monkeypatch.setenv(*word.removeprefix("ENV:").split("=", 1))
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-files")
    elsewhere.mkdir()
    values = [word.partition("=")[2] for word in words]
    words = [
        word.replace(value, str(elsewhere / value)) if make(value, elsewhere) else word
        for word, value in zip(words, values, strict=True)
    ]
    bad = Bad(
        "met before", tuple(words if words[0] == "table" else [*BASE, *words]), (*names, *filter(None, values), *SAID)
    )
    why = wrong_with(bad)
    assert why is None, f"{' '.join(bad.words)[:300]}: {why}"
