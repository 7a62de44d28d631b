"""What runs need of the hub, which files that is, and what a mirror lacks for them."""

import json
import re

import pytest

from layerfit import config
from layerfit.errors import UserError
from layerfit.launch import preflight
from layerfit.prefetch.__main__ import main, runs_of
from layerfit.prefetch.check import missing, offline
from layerfit.prefetch.choose import dataset_files, model_files
from layerfit.prefetch.needs import needs
from tests.evaluation.test_command_line import MIRROR, needs_mirror
from tests.prefetch.test_prefetch import ROWS, TINY, WORDS, compose

FASTCHAT = MIRROR.parent / "fastchat"

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
PICKLES = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
INDICES = ["model.safetensors.index.json", "pytorch_model.bin.index.json"]


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        # meta-llama/Llama-2-7b-hf and Mistral-7B-v0.1: both kinds
        ([*SHARDS, *PICKLES, *INDICES, "original/consolidated.00.pth"], [*SHARDS, INDICES[0]]),
        # opt-1.3b, gpt-j-6b: pickles only, and other frameworks
        (["pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "rust_model.ot"], ["pytorch_model.bin"]),
        ([*PICKLES, INDICES[1], "onnx/model.onnx"], [*PICKLES, INDICES[1]]),
        (["model.safetensors", "model.fp16.safetensors", *SHARDS, INDICES[0], "q4.gguf"], ["model.safetensors"]),
        (["consolidated.safetensors"], []),
    ],
)
def test_weights_of_one_kind(there, chosen):
    """In the order of `from_pretrained`: safetensors before pickles, a single file before shards."""
    beside = ["additional_chat_templates/tool_use.jinja", "config.json", "spiece.model", "tokenizer.json", "vocab.txt"]
    unread = ["README.md", "USE_POLICY.md", ".gitattributes", "original/tokenizer.model", "modeling_x.py"]
    assert model_files([*there, *beside, *unread], weights=True) == sorted([*chosen, *beside])
    assert model_files([*there, *beside, *unread], weights=False) == beside


CARD = [
    {
        "config_name": "a",
        "data_files": [{"split": "train", "path": "a/train-*"}, {"split": "test", "path": ["x.jsonl"]}],
    },
    {"config_name": "b", "data_files": "b/**/*.parquet"},
]


@pytest.mark.parametrize(
    ("names", "configs", "subsets", "chosen", "without"),
    [
        (
            ["a/train-0.parquet", "x.jsonl", "b/y/1.parquet", "z.jsonl"],
            CARD,
            ("a",),
            ["a/train-0.parquet", "x.jsonl"],
            [],
        ),
        (["a/train-0.parquet", "b/2.parquet", "b/y/1.parquet"], CARD, ("b",), ["b/2.parquet", "b/y/1.parquet"], []),
        (["a/train-0.parquet"], CARD, ("b",), [], ["b"]),
        (["main/test.parquet", "other/test.parquet"], [], ("main", "gone"), ["main/test.parquet"], ["gone"]),
        (
            ["data/train.json", "dev.jsonl.gz", "a.gz", "a.py", ".x/c.json"],
            [],
            None,
            ["data/train.json", "dev.jsonl.gz"],
            [],
        ),
        (["script.py", "dataset_infos.json"], [], None, [], ["default"]),
    ],
)
def test_files_of_a_subset(names, configs, subsets, chosen, without):
    assert dataset_files([*names, "README.md"], configs, subsets) == (["README.md", *chosen], without)


def test_what_runs_need():
    runs = [
        compose("model=llama2_7b", "dataset=lima", "eval=mmlu"),
        compose("model=llama2_7b", "dataset=nano", "model.weights=random", "eval=winogrande"),
        compose("model=nano", "dataset=nano", "eval=nano", "method=vanilla"),
        compose("model=nano", "dataset=wikitext2", "eval=wikitext_ppl", "training.max_length=8"),
    ]
    found = {need.repo: need for need in needs(runs)}
    assert list(found) == [
        "meta-llama/Llama-2-7b-hf",
        "allenai/winogrande",
        "cais/mmlu",
        "GAIR/lima",
        "Salesforce/wikitext",
    ]
    llama = found["meta-llama/Llama-2-7b-hf"]
    assert (llama.kind, llama.revision, llama.weights) == ("models", runs[0].model.revision, True)
    assert not needs(runs[1:2])[0].weights
    assert len(found["cais/mmlu"].subsets()) == 57  # the paper's count of subjects
    assert found["allenai/winogrande"].subsets() == ("winogrande_xl",)
    assert {part.split for part in found["allenai/winogrande"].parts} == {"train", "validation"}  # shots, questions
    assert found["GAIR/lima"].subsets() is None
    assert {part.split for part in found["Salesforce/wikitext"].parts} == {"train", "validation", "test"}


def test_tasks_that_nobody_listed_are_resolved_by_their_files():
    """lm-eval's own task files: a tag of two tasks; one that reads a file by its address."""
    run = compose("eval=none", "+eval.tasks=[{name: ai2_arc}, {name: logiqa2}]")
    [need] = [need for need in needs([run]) if need.repo == "allenai/ai2_arc"]
    assert need.subsets() == ("ARC-Challenge", "ARC-Easy")


def test_a_task_whose_data_is_on_no_hub_id_is_said(tmp_path):
    """lm-eval's arithmetic_1dc reads a file by its address."""
    run = compose("eval=none", "+eval.tasks=[{name: arithmetic_1dc}]")
    [line] = missing([run], tmp_path, "again")
    assert line.startswith("task arithmetic_1dc reads data without a hub id")


def test_a_table_and_what_is_asked_wrongly(tmp_path, capsys):
    mirror = ["--mirror", str(tmp_path / "mirror")]
    assert main(["nano_main", *mirror, "--check"]) == 0
    assert "complete: " in capsys.readouterr().out
    with config.composer():
        assert {run.eval.name for run in runs_of(["nano_main"])} == {"nano", "nano_dev", "none"}  # trials; rankings
    assert main(["mirror", "model.revision=abc", "--check", *mirror]) == 1
    out = capsys.readouterr().out
    assert "missing: model karpathy/stories260K (model=stories260k) is not at" in out
    assert f"; make prefetch T=mirror G=model.revision=abc MIRROR={tmp_path}/mirror\n" in out
    (tmp_path / "file").touch()
    for words, message in (
        (["nowhere", *mirror], "no table 'nowhere'; known tables: demo"),
        (["model=gpt9", *mirror], "gpt9"),
        (["mirror", "nano_main", *mirror], "name one table"),
        (["nano_main"], "name the folder to fill: --mirror DIR"),
        (["nano_main", "--mirror", str(tmp_path / "file")], "is a file, not a folder"),
        (["model=nano", "dataset=local", "dataset.path=/nowhere", *mirror], "dataset.path=/nowhere does not exist"),
    ):
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("prefetch: ")
        assert message in error
        assert error.count("\n") == 1


def test_two_pins_of_one_repository_are_refused():
    runs = [compose("model=llama2_7b"), compose("model=llama2_7b", "model.revision=other")]
    with pytest.raises(UserError, match=r"is needed at 01c7f73.* and at other.*two mirrors"):
        needs(runs)


@needs_mirror
def test_the_check_names_everything_that_a_mirror_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    runs = [compose("model=stories260k", "dataset=alpaca_gpt4", "eval=mirror")]
    assert missing(runs, MIRROR, "again") == []
    preflight.preflight(offline(runs[0], MIRROR))
    found = missing([compose("model=llama2_7b", "dataset=alpaca_gpt4", "eval=lisa_suite")], MIRROR, "again")
    subsets = [
        "gaokao-english",
        "logiqa-en",
        "lsat-rc",
        "sat-en",
        "sat-en-without-passage",
    ]  # shared README: four are there
    assert [line.split(" ")[0 if "holds" in line else 1] for line in found] == [
        str(MIRROR / "models/meta-llama/Llama-2-7b-hf"),
        *(f"hails/agieval-{name}" for name in subsets),
    ]
    assert all(line.endswith("; again") for line in found)


@pytest.mark.skipif(not FASTCHAT.is_dir(), reason=f"no FastChat files at {FASTCHAT}")
def test_a_benchmarks_files_are_named_for_copying(tmp_path):
    words = ["eval=mt_bench", "eval.judge.base_url=http://127.0.0.1:1/v1", "eval.judge.model=j"]
    run = compose(*words, "eval.judge.key_variable=null", "eval.judge.template=plain")
    [line] = missing([run], tmp_path, "again")
    listed = re.search(r"to copy by hand: (.*) from fastchat/llm_judge/data", line)[1].split(", ")
    for name in listed:
        target = tmp_path / "datasets/lm-sys/FastChat" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((FASTCHAT / name).read_bytes())
    assert missing([run], tmp_path, "again") == []


CONFIG = json.loads(TINY["config.json"])


@pytest.mark.parametrize(
    ("change", "content"),
    [
        (None, b""),
        ("models/org/tiny/config.json", None),
        ("models/org/tiny/config.json", b"{"),
        ("models/org/tiny/config.json", json.dumps(CONFIG | {"model_type": "other"}).encode()),
        ("models/org/tiny/config.json", json.dumps(CONFIG | {"max_position_embeddings": 4}).encode()),
        ("models/org/tiny/model.safetensors", None),
        ("models/org/tiny/tokenizer.json", None),
        ("datasets/org/data/data.json", None),
        ("datasets/org/data/data.json", b'{"instruction": "a"}\n'),
        ("datasets/org/data/data.json", b"{"),
    ],
)
def test_complete_means_that_preflight_passes(tmp_path, monkeypatch, change, content):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    for folder, found in (("models/org/tiny", TINY), ("datasets/org/data", {"data.json": ROWS})):
        (tmp_path / folder).mkdir(parents=True)
        for name, data in found.items():
            (tmp_path / folder / name).write_bytes(data)
    if change is not None:
        (tmp_path / change).unlink() if content is None else (tmp_path / change).write_bytes(content)
    run = compose(*WORDS)
    lines = missing([run], tmp_path, "again")
    if change is None:
        assert lines == []
        preflight.preflight(offline(run, tmp_path))
    else:
        assert len(lines) == 1
        assert "\n" not in lines[0]
        with pytest.raises(UserError):
            preflight.preflight(offline(run, tmp_path))


def test_a_shard_that_is_missing_is_named(tmp_path):
    """Preflight does not look at it; loading would fail."""
    folder = tmp_path / "models/org/tiny"
    folder.mkdir(parents=True)
    for name, data in TINY.items():
        (folder / name.replace("model.safe", "model-00001-of-00002.safe")).write_bytes(data)
    index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    run = compose("model=hf", "model.id=org/tiny", "dataset=nano", "eval=none", "training.max_length=8")
    assert missing([run], tmp_path, "again") == [f"{folder / SHARDS[1]} is missing; again"]
