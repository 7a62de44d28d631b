"""Words of a request: one door for what Hydra raises, sweeps counted before they are made, every value looked at."""

import shlex
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from omegaconf import OmegaConf
from omegaconf.errors import ConfigTypeError

from layerfit import config
from layerfit.cli import main
from layerfit.config import words
from layerfit.config.checks import ENGINES
from layerfit.config.messages import user_errors
from layerfit.config.schema import DatasetConfig, RunConfig
from layerfit.errors import UserError, check_range
from layerfit.files.shown import shown
from layerfit.methods import METHODS
from layerfit.methods.base import Method


@pytest.fixture(scope="module", autouse=True)
def composer():
    with config.composer():
        yield


def composed(*overrides):
    return config.compose(["model=nano", "dataset=nano", "eval=none", *overrides])


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("method=ist", "method.num_updated=0.5", "seed=3", "training.max_steps=7"),
        ("method=static", "method.units=[layers.0,layers.3]", "engine=torch", "label='a,b'"),
        ("experiment=lisa_sft", "training.batch_size=32", "optim.lr=1e-3"),
        ("method=ila", "+dataset@ranking_data.a=nano", "+dataset@ranking_data.b=nano_facts", "ranking_data.b.seed=4"),
        ("+model.sizes.hidden_size=64", "model.norms=[a]"),
        ("eval=mt_bench", "eval.judge.benchmarks={mt_bench: null}", "eval.judge.timeout_s=3"),
    ],
)
def test_groups_composed_once_give_what_hydra_gives(overrides):
    for _ in range(2):  # the second time from memory
        assert config.composed(overrides) == hydra_compose("config", overrides=list(overrides))


SWEEPS = {
    "seed=range(0,0)": "lists no values",
    "seed=range(3,0)": "lists no values",
    "seed=range(0,3,0)": "step that is not 0",
    "optim.lr=range(0,1,1e-12)": "asks for 1,000,000,000,001 runs",
    "seed=range(0,10001)": "at most 10,000",
    "optim.lr=interval(1e-5,1e-3)": "optim.lr=A,B,C",
    "optim=glob(*)": "list them: optim=adamw",
    "seed=glob(*)": "list them",
    "seed=shuffle(range(0,3))": "drop shuffle",
}


@pytest.mark.parametrize("word", SWEEPS)
def test_a_sweep_that_cannot_be_listed(word):
    with pytest.raises(UserError) as error:
        config.expand([word], multirun=True)
    assert SWEEPS[word] in str(error.value)
    assert word in str(error.value)


def test_sweeps_are_counted_together_and_before_they_are_made():
    huge = ["seed=range(0,2000)", "method.seed=range(0,2000)", "dataset.seed=range(0,2000)"]
    with pytest.raises(UserError, match="2,000 x 2,000 = 4,000,000 runs"):
        config.expand(huge, multirun=True)
    allowed = config.expand(["seed=range(0,100)", "method.seed=range(0,100)"], multirun=True)
    assert len(allowed) == words.MOST_CELLS
    assert allowed[1] == ["seed=0", "method.seed=1"]
    assert (
        config.expand(["optim.lr=range(0.1,0.35,0.1)"], multirun=True)
        == [
            ["optim.lr=0.1"],
            ["optim.lr=0.2"],
            ["optim.lr=0.30000000000000004"],
        ]
        or len(config.expand(["optim.lr=range(0.1,0.35,0.1)"], multirun=True)) == 3
    )


@pytest.mark.parametrize(
    "value", ["/data/run=3/a.jsonl", "run#1", "a, b", "it's", 'say "hi"', "[x", "back\\slash=", "{"]
)
def test_the_quoting_that_is_offered_is_right(value):
    """What the message says to write is what the shell hands over, and Hydra then reads the value itself."""
    with pytest.raises(UserError) as error:
        config.parse([f"label={value}"] if value != "a, b" else ["label=a, [b"])
    offered = shlex.split(str(error.value).partition(" quotes: ")[2])
    asked = value if value != "a, b" else "a, [b"
    assert [override.value() for override in config.parse(offered)] == [asked]


def test_keys_that_nobody_reads_are_named():
    for sign in ("+", "++"):
        with pytest.raises(UserError, match=r"unknown key training\.max_step \(did you mean training\.max_steps\?\)"):
            composed(f"{sign}training.max_step=1")
    with pytest.raises(UserError, match=r"training was taken out"):
        composed("~training")
    assert composed("+model.sizes.own=1").model.sizes["own"] == 1  # a dictionary holds any
    assert set(composed("method=ila", "+dataset@ranking_data.own=nano_facts").ranking_data) == {"own"}
    with pytest.raises(UserError, match=r"ranking_data\.x sets the data of ranking runs"):
        composed("+dataset@ranking_data.x=nano")


def _of(cls, above=""):
    for f in fields(cls):
        kind = f.type if isinstance(f.type, type) else None
        yield above + f.name, f
        if kind is not None and is_dataclass(kind):
            yield from _of(kind, f"{above}{f.name}.")


def test_every_path_of_the_schema_is_expanded_in_one_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = composed("paths.outputs='~/o'", "paths.results='~/r'", "hub.mirror='~/m'", "model.path='~/p'")
    found = (run.paths.outputs, run.paths.results, run.hub.mirror, run.model.path)
    assert found == tuple(str(tmp_path / name) for name in "ormp")
    run = composed("method=ila", "method.ranking='~/k'", "dataset.path='~/d'")
    assert (run.method.ranking, run.dataset.path) == (str(tmp_path / "k"), str(tmp_path / "d"))
    judged = ("eval.judge.data='~/q'", "eval.judge.model_path='~/j'")
    judge = config.compose(["eval=mt_bench", *judged]).eval.judge
    assert (judge.data, judge.model_path) == (str(tmp_path / "q"), str(tmp_path / "j"))
    assert composed("method=ila").method.ranking == "auto"


def test_fields_that_sound_like_paths_are_marked_as_paths():
    from layerfit.config.judge import JudgeConfig
    from layerfit.config.model import ModelConfig
    from layerfit.config.schema import EvalConfig, HubConfig, PathsConfig

    classes = (ModelConfig, DatasetConfig, EvalConfig, JudgeConfig, HubConfig, PathsConfig, *METHODS.values())
    sounding = ("path", "outputs", "results", "mirror", "data", "ranking", "model_path")
    for cls in classes:
        for f in fields(cls):
            if f.name in sounding and "str" in str(f.type):
                assert f.metadata.get("path"), f"{cls.__name__}.{f.name}"


def test_paths_that_follow_the_seed_follow_it():
    """Expanding changes the run, never the configuration that the next seed is composed of."""
    made = config.composed(("paths.outputs='out/${seed}'",))
    for seed in (1, 2):
        OmegaConf.update(made, "seed", seed)
        assert config.typed(made).paths.outputs == f"out/{seed}"


def test_an_error_of_our_own_is_not_taken_for_the_users():
    with pytest.raises(ZeroDivisionError), user_errors(["a=b"]):
        1 // 0  # noqa: B018
    with pytest.raises(UserError, match="a=b cannot be composed"), user_errors(["a=b"]):
        hydra_compose("config", overrides=["method=null"])
    with pytest.raises(AttributeError), user_errors(["a=b"]):
        Method().nothing  # type: ignore[attr-defined]  # noqa: B018


@dataclass
class Wrong(DatasetConfig):
    """A data class with a bug of ours."""

    name: str = "a"
    id: str = "a"
    form: str = "auto"
    template: str = "auto"

    def __post_init__(self) -> None:
        check_range("a", None, 0)  # type: ignore[arg-type]


def test_a_bug_in_a_data_class_is_not_taken_for_the_users():
    with pytest.raises(ConfigTypeError, match="real number"), user_errors(["a=b"]):
        OmegaConf.to_object(OmegaConf.structured(Wrong))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_no_range_has_an_infinity(value):
    with pytest.raises(UserError, match="is outside"):
        check_range("a", value, 0)
    check_range("a", 10**400, 0)  # whole numbers are bounded where they are read


def test_a_message_is_one_line_however_long_a_word_is():
    text = shown(f"a\nb\x1b[31m {'x' * 5000} end")
    assert text.startswith("a b\\x1b[31m xxx")
    assert text.endswith(" end")
    assert len(text) < 150


REFUSED = {
    "engine=torch engine.stage=3": "choose it by its name alone",
    "engine=zero2 engine.offload=true": "zero3_offload",
    "engine.stage=7": "engine.stage=7",
    "engine=zero2 engine.name=mine": "engine.name=mine is not known; use one of torch, zero0",
    "model.num_layers=null": "model=hf",
    "model.linear=[]": "model.linear=[]",
    "model.revision=''": "model.revision='' is empty",
    "hub.mirror=''": "hub.mirror='' is empty",
    "dataset.num_validation=99999999": "holds out all of the 1,912 rows",
    "dataset.seed=-1": "a seed is 0 or more",
    "seed=9223372036854775808": "beyond any machine",
    "method=ist method.num_updated=inf": "method.num_updated=inf is not a finite number",
    "eval=mt_bench eval.judge.timeout_s=inf": "eval.judge.timeout_s=inf",
    "method=static method.alpha=inf": "method.alpha=inf",
    "training.epochs=1e999 training.max_steps=null": "training.epochs=inf",
    "optim.lr=1e39": "32-bit",
    "engine.ranks=65537": "engine.ranks",
    "method=lora method.rank=1048577": "method.rank=1048577 is beyond any machine; give at most 1,048,576",
    "training.batch_size=99999999": "training.batch_size",
    "eval.tasks=[{name:'../../etc'}]": "../../etc",
    "method=lisa method.switch_every='²'": "method.switch_every='²'",
    "method=../method/lisa": "takes one name",
    "label='a\tb'": "control characters",
    "~model": "every run has one model",
}


@pytest.mark.parametrize("asked", REFUSED)
def test_a_run_that_cannot_be_is_not_composed(asked):
    with pytest.raises(UserError) as error:
        config.compose(asked.split(" "))
    assert REFUSED[asked] in str(error.value)


def test_every_seed_that_is_allowed_is_one_for_torch():
    import torch

    from layerfit.errors import LARGEST_SEED

    assert torch.Generator().manual_seed(LARGEST_SEED).initial_seed() == LARGEST_SEED
    assert isinstance(composed(f"seed={LARGEST_SEED}"), RunConfig)


@pytest.mark.parametrize(
    "asked", ["--cfg job --package nope", "--cfg job --nope", "--cfg nope", "--cfg job +foo=1", "--cfg job --run"]
)
def test_hydras_own_flags_said_wrongly(asked, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(asked.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("layerfit: ")
    assert not list(Path().iterdir())


def test_every_engine_has_its_file():
    assert sorted(ENGINES) == sorted(path.stem for path in (config.CONF / "engine").glob("*.yaml"))
