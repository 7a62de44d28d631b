"""One command: what it hands over to whom, its help, and the nearest name for a misspelt one."""

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from layerfit import __version__, cli, config

NOT_GROUPS = {"table", "tuned", "claims", "hydra", "local"}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_a_module_with_a_main(name):
    command = cli.COMMANDS[name]
    if find_spec(command.module) is None:
        pytest.skip(f"{command.module} is not written yet")
    assert callable(import_module(command.module).main)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_words_are_handed_over(name, monkeypatch):
    command, asked = cli.COMMANDS[name], []
    fake = type(sys)("fake")
    fake.main = lambda argv: asked.append(argv) or 7
    monkeypatch.setitem(sys.modules, command.module, fake)
    assert cli.main([name, "demo", "--help"]) == 7
    assert asked == [[*command.words, "demo", "--help"]]


def test_both_forms_of_a_command_say_the_same(tmp_path, monkeypatch, capsys):
    from layerfit.report.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["todo", "demo"]) == 0
    report = capsys.readouterr()
    assert cli.main(["todo", "demo"]) == 0
    assert capsys.readouterr() == report
    assert report.out.endswith("22 runs to do\n")


def test_run_is_the_default(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "_run", lambda argv: asked.append(argv) or 0)
    assert cli.main(["run", "-m", "method=lisa,lora"]) == cli.main(["-m", "method=lisa,lora"]) == 0
    assert asked == [["-m", "method=lisa,lora"]] * 2


def test_help_is_ours(capsys):
    assert cli.main(["method=lisa", "--help"]) == cli.main([]) == 0
    text = cli.help_text(100)
    assert all(len(line) <= 113 for line in text.splitlines())
    assert len(cli.help_text(120).splitlines()) <= 16
    words = set(text.split())
    for group in cli.GROUPS:
        names = {path.stem for path in (config.CONF / group).glob("*.yaml")}
        assert names <= words | {name for name in names if name.startswith("nano_")}
    assert "nano_*" in words
    assert not {"schema", "lisa_schema", "lisa_main", "nano_main"} & words
    assert set(cli.COMMANDS) <= words


def test_help_knows_every_group():
    folders = {path.name for path in config.CONF.iterdir() if path.is_dir()} - NOT_GROUPS
    assert folders | {"hydra/launcher"} == {*cli.GROUPS, *cli.SMALL_GROUPS}


def test_help_and_version_need_no_library():
    heavy = ("hydra", "omegaconf", "yaml", "numpy", "torch", "rich")
    code = (
        "import sys; from layerfit.cli import main; main(['--help']); main(['--version'])\n"
        f"bad = set({heavy!r}) & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"layerfit {__version__} (commit " in done.stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("method=lsia", "method=lsia is not known (did you mean lisa?); use one of: adalora, "),
        ("method=LISA", "(did you mean lisa?)"),
        ("method=xyzzy", "method=xyzzy is not known; use one of: adalora, "),
        (
            "method=lisa method.num_activ=3",
            "unknown key method.num_activ (did you mean method.num_active?); method has: ",
        ),
        ("training.batchsize=8", "unknown key training.batchsize (did you mean training.batch_size?)"),
        ("modle=nano", "unknown key modle (did you mean model?)"),
        ("hydra/launcher=slrm", "(did you mean slurm?)"),
        ("engine.device=cdua", "(did you mean cuda?)"),
        ("todo lisa_mian", "no table 'lisa_mian' (did you mean lisa_main?)"),
        ("tabel demo", "unknown command tabel (did you mean table?); use one of: run, table, "),
    ],
)
def test_the_nearest_name_is_offered(words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error
    assert "_schema" not in error
    assert str(config.ROOT) not in error


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("method=lisa --cfg job --package method", 0, "num_active: 2"),
        ("--info searchpath", 0, "| main "),
        ("method=lsia --cfg job", 2, "layerfit: method=lsia is not known (did you mean lisa?)"),
    ],
)
def test_hydras_own_flags_go_on_working(words, status, text, tmp_path):
    """In a process of their own: Hydra's main sets up logging."""
    command, env = [sys.executable, "-m", "layerfit", *words.split()], {**os.environ, "PYTHONPATH": str(config.ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert text in done.stdout + done.stderr
    assert done.stderr.count("\n") == (status == 2)


@pytest.mark.parametrize(
    "words", ["todo", "render x --frob", "estimate x --gpu none", "judge", "report --frob", "prefetch --x"]
)
def test_a_command_that_is_said_wrongly_is_one_line(words, capsys):
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "usage: layerfit" in error
