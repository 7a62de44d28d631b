"""Task files from a user's folder: only where he has joined it, regular, and with templates that end."""

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from layerfit.config.folders import joined
from layerfit.config.schema import EvalConfig, HubConfig, TaskConfig
from layerfit.errors import UserError
from layerfit.evaluation.lm_eval import own_files, task_data
from layerfit.evaluation.lm_eval.own_files import PACKAGE, check_folder, find_folder, task_files
from layerfit.evaluation.lm_eval.tasks import check
from layerfit.evaluation.lm_eval.write_templates import templates, write

TASK = "task: mine\ndataset_path: org/mine\noutput_type: multiple_choice\ndoc_to_text: '{{prompt}}'\n"


def asked(include, *names):
    return EvalConfig(name="t", include=str(include), tasks=[TaskConfig(name=name) for name in names])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a folder of tasks in it."""
    (tmp_path / "work" / "tasks").mkdir(parents=True)
    (tmp_path / "work" / "tasks" / "mine.yaml").write_text(TASK)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_tasks_of_the_project_are_found(here):
    check(asked("tasks", "mine"), HubConfig())
    check(asked(here / "tasks", "mine"), HubConfig())
    assert find_folder("world/tasks") == PACKAGE / "world" / "tasks"


def test_a_folder_that_was_joined_is_allowed(here, monkeypatch):
    (here.parent / "elsewhere").mkdir()
    monkeypatch.chdir(here.parent / "elsewhere")
    with pytest.raises(UserError, match="is outside the package"):
        check(asked(here / "tasks", "mine"), HubConfig())
    with joined([str(here)]):
        check(asked(here / "tasks", "mine"), HubConfig())


@pytest.mark.parametrize(
    "include", ["../../../../etc", "/etc", "/", "..", "../elsewhere", "link", "/dev", "/proc/self", "~"]
)
def test_any_other_folder_is_refused_at_once(include, here):
    (here.parent / "elsewhere").mkdir()
    (here / "link").symlink_to(here.parent / "elsewhere")
    begin = time.monotonic()
    for look in (lambda c: check(c, HubConfig()), task_data.data):
        with pytest.raises(UserError, match=r"eval\.include=.* (is outside the package|is not a folder)") as error:
            look(asked(include, "mine"))
        assert "\n" not in str(error.value)
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("include", ["", " ", "y" * 300, "a\0b", "none", "tasks/mine.yaml"])
def test_what_is_no_folder_is_said(include, here):
    with pytest.raises(UserError, match=r"eval\.include="):
        check(asked(include, "mine"), HubConfig())


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "", "a b", "a\nb", "mine.yaml/..", "\x1b[31m"])
def test_what_is_no_name_is_refused_without_a_search(name, here):
    with pytest.raises(UserError, match="which no task is called") as error:
        check(asked("tasks", name), HubConfig())
    assert str(error.value).isprintable()


def pipe(folder):
    os.mkfifo(folder / "pipe.yaml")


def link_out(folder):
    (folder / "out.yaml").symlink_to("/etc/hostname")


def link_to_device(folder):
    (folder / "zero").symlink_to("/dev/zero")


def large(folder):
    (folder / "large.yaml").write_bytes(b"#" * (own_files.MOST_BYTES + 1))


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


LOOP = "{% for i in range(10**12) %}{% endfor %}"
MACRO = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"
ALIASES = [f"{name}: &{name} [{', '.join([f'*{before}'] * 20)}]\n" for before, name in pairwise("abcdefghijkl")]
BAD_FILES = {
    "pipe": (pipe, "pipe.yaml is not a regular file"),
    "link out": (link_out, "outside"),
    "link to a device": (link_to_device, "outside"),
    "large": (large, "large.yaml has 1048577 bytes"),
    "include": (text("a.yaml", "include: ../../../etc/x.yaml\n"), "outside"),
    "absolute include": (text("a.yaml", "'include': '/etc/x.yaml'\n"), "outside"),
    "function": (text("a.yaml", "task: a\ndoc_to_text: !function ../../evil.run\n"), "outside"),
    "absolute function": (text("a.yaml", "task: a\ndoc_to_text: !function /tmp/evil.run\n"), "outside"),
    "dotted function": (text("a.yaml", "task: a\ndoc_to_text: !function ..tmp.evil.run\n"), "outside"),
    "not YAML": (text("a.yaml", "task: [\n"), "a.yaml: the file is not YAML"),
    "deep": (text("a.yaml", "[" * 50_000), "a.yaml: the file"),
    "a syntax error": (text("a.yaml", "doc_to_text: '{% for %}'\n"), "doc_to_text is not a template"),
    "endless": (text("a.yaml", f"a: 1\ndoc_to_text: '{LOOP}'\n"), "doc_to_text did not end within"),
    "nested": (text("a.yaml", f"a: [{{b: '{LOOP}'}}]\n"), r"a\[0\]\.b did not end"),
    "large text": (text("a.yaml", "a: '{{ \"x\" * 10**11 }}'\n"), "a (cannot be written|did not end)"),
    "recursive": (text("a.yaml", f"x: '{MACRO}'\n"), "x cannot be written: Recursion"),
    "a bomb of aliases": (text("a.yaml", "a: &a ['{{1}}']\n" + "".join(ALIASES)), "did not end within"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_task_file_that_harms_is_refused_before_anything_runs(name, here, monkeypatch):
    monkeypatch.setattr(own_files, "SECONDS", 1)
    make, message = BAD_FILES[name]
    make(here / "tasks")
    begin = time.monotonic()
    with pytest.raises(UserError, match=message) as error:
        check(asked("tasks", "mine"), HubConfig())
    assert "\n" not in str(error.value)
    assert time.monotonic() - begin < 5


def test_looking_runs_no_code_of_the_files(here):
    (here / "tasks" / "utils.py").write_text("from pathlib import Path\nPath('ran').touch()\ndef f(doc): return 'x'\n")
    (here / "tasks" / "more.yaml").write_text("task: more\ninclude: mine.yaml\ndoc_to_text: !function utils.f\n")
    check(asked("tasks", "more"), HubConfig())
    assert not (here / "ran").exists()


def test_folders_of_too_many_files_are_refused(here, monkeypatch):
    monkeypatch.setattr(own_files, "MOST_FILES", 10)
    (here / "tasks" / ".git").mkdir()
    for number in range(20):
        (here / "tasks" / ".git" / f"{number}").touch()  # hidden: not looked at
    check_folder("tasks")
    for number in range(20):
        (here / "tasks" / f"{number}.json").touch()
    with pytest.raises(UserError, match="more than 10 files"):
        check_folder("tasks")


def test_templates_of_ours_end_too():
    """Also with nothing in place of the data."""
    import yaml

    from layerfit.evaluation.lm_eval.write_templates import _Loader

    found = 0
    for root in (PACKAGE / "world" / "tasks", PACKAGE / "evaluation" / "task_files"):
        for path in task_files(root):
            for _, template in templates(yaml.load(path.read_text(), Loader=_Loader), ""):
                assert write(template) is None
                found += 1
    assert found > 3


def test_importing_the_check_imports_no_jinja():
    code = "import sys, layerfit.evaluation.lm_eval.tasks; sys.exit('jinja2' in sys.modules or 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(PACKAGE).parent)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
