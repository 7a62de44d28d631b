"""What a model or a listing from outside may not do: run code, ask the user, read or write beside its folder."""

import ast
import builtins
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from layerfit.config.schema import HubConfig, ModelConfig
from layerfit.errors import UserError
from layerfit.evaluation.judge.local import LocalJudge
from layerfit.models import architecture
from layerfit.models.hub import load_model, load_tokenizer
from tests.helpers.model_files import LLAMA, write_llama
from tests.helpers.tiny import composed

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("layerfit", "scripts") for path in (ROOT / folder).rglob("*.py"))
HUB = HubConfig(offline=True)


LOADS = ("from_pretrained", "from_config", "load_dataset", "load_dataset_builder", "get_dataset_config_names")
STARTS = ("subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.call")


def must(function: str) -> tuple[str, str] | None:
    """The keyword and value with which a function has to be called."""
    if function.rpartition(".")[2] in LOADS:
        return "trust_remote_code", "False"
    if function in STARTS:
        return "stdin", "subprocess.DEVNULL"
    return ("weights_only", "True") if function == "torch.load" else None


def lacking(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and (wanted := must(function := ast.unparse(node.func))):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get(wanted[0]) != wanted[1] and not (wanted[0] == "stdin" and "input" in given):
                found.append(f"{node.lineno}: {function} without {wanted[0]}={wanted[1]}")
    return found


def test_what_loads_code_by_default_is_told_not_to():
    wrong = ["A.from_pretrained(x)", "from_config(x, trust_remote_code=True)", "torch.load(x)", "subprocess.run(x)"]
    assert [len(lacking(line)) for line in wrong] == [1, 1, 1, 1]
    assert lacking("load_dataset(x, trust_remote_code=False)\ntorch.load(x, weights_only=True)\njson.load(x)") == []
    assert {str(path): found for path in SOURCES if (found := lacking(path.read_text()))} == {}


MODELING = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = {kind!r}
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
AUTO = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}


@pytest.fixture(params=["llama", "its_own"])
def hostile(request, tmp_path, monkeypatch):
    """A folder that brings its own code, which leaves a marker where it runs; and a user who would say yes."""
    folder = write_llama(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(LLAMA | {"auto_map": AUTO, "model_type": request.param}))
    words = json.loads((folder / "tokenizer_config.json").read_text())
    words |= {"auto_map": {"AutoTokenizer": ["modeling.Tokenizer", "modeling.Tokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    (folder / "modeling.py").write_text(MODELING.format(marker=str(tmp_path / "marker"), kind=request.param))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("the user was asked"))
    yield folder
    assert not (tmp_path / "marker").exists()


def test_a_models_own_code_never_runs(hostile):
    model = ModelConfig(name="m", id=None, path=str(hostile), num_layers=2, max_positions=64, linear=[])
    loads = [
        lambda: load_tokenizer(model, HUB),
        lambda: load_model(model, HUB, "fp32"),
        lambda: architecture.transformers_config(model, hostile),
    ]
    for load in loads:
        if json.loads((hostile / "config.json").read_text())["model_type"] == "llama":
            load()
        else:
            with pytest.raises(UserError, match="model=m: no configuration in") as error:
                load()
            assert "\n" not in str(error.value)


def test_a_judges_own_code_never_runs(hostile):
    (hostile / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    config = composed("eval=mt_bench", f"eval.judge.model_path={hostile}", "eval.judge.dtype=fp32").eval.judge
    known = "llama" in (hostile / "config.json").read_text()
    with nullcontext() if known else pytest.raises(UserError, match="no configuration in"):
        LocalJudge(config, HUB, "cpu", 1)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_models_own_code_never_runs_on_any_rank(hostile, ranks, tmp_path):
    """With `yes` on the standard input: no process reads it."""
    own = {"llama": "model=hf", "its_own": "model=hf model.blocks=model.layers model.embedding=model.embed_tokens"}
    kind = json.loads((hostile / "config.json").read_text())["model_type"]
    words = own[kind].split()
    if kind != "llama":
        words += ["model.norm=model.norm", "model.head=lm_head", "model.linear=[mlp.up_proj]", "model.norms=[]"]
    words += [f"model.path={hostile}", "dataset=nano", "eval=none", "method=full", f"engine.ranks={ranks}"]
    words += ["training.max_steps=2", "training.batch_size=2", "training.max_length=32", "engine=zero0"]
    command = [sys.executable, "-m", "layerfit", *words, "engine.device=cpu", "hub.offline=true"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, input="y\n" * 50, capture_output=True, text=True, timeout=600
    )
    assert "Traceback" not in done.stderr
    if kind == "llama":
        assert done.returncode == 0, done.stderr[-2000:]
    else:
        assert done.returncode != 0
        assert "no configuration in" in done.stdout + done.stderr
    logs = [path.read_text() for path in tmp_path.glob("outputs/*/log*.txt")]
    assert not any("Do you wish to run the custom code" in text for text in [*logs, done.stdout, done.stderr])


@pytest.mark.parametrize("enters", ["no_input()", "_enter(Path(sys.argv[1]), [], None)"])
def test_no_process_reads_the_users_input(enters, tmp_path):
    """Nor does what it becomes: torch's launcher is started by exec."""
    code = "import os, sys; from pathlib import Path; from layerfit.launch.processes import _enter, no_input; "
    code += f"{enters}; os.execvp('cat', ['cat', '-', {str(tmp_path / 'end')!r}])"
    (tmp_path / "end").write_text("end")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], input="yes", capture_output=True, text=True, cwd=ROOT, check=True
    )
    log = tmp_path / "log.txt"
    assert (log.read_text() if log.exists() else done.stdout) == "end"
