"""A record says how it was made, and nothing of where the checkout lies; what makes a source tree dirty."""

import subprocess

import pytest

from layerfit.installation import ROOT, source
from layerfit.records import manifest as module
from layerfit.records.manifest import command, dirt, manifest


def git(folder, *words):
    named = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *named, *words], check=True, capture_output=True)


def at(folder, monkeypatch):
    """The package seems to lie in a folder."""
    monkeypatch.setattr(module, "source", lambda: source(folder / "layerfit"))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ("layerfit/__init__.py", "conf/table/a.yaml", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x: 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    at(tmp_path, monkeypatch)
    return tmp_path


def test_the_command_holds_no_place_of_this_machine():
    assert command([str(ROOT / "layerfit" / "__main__.py"), "method=lisa"]) == ["layerfit/__main__.py", "method=lisa"]
    assert command(["/somewhere/bin/pytest", "-q"]) == ["pytest", "-q"]
    assert str(ROOT) not in str(manifest("cpu", {}))


def test_specs_and_settings_are_no_sources(checkout):
    for name in ("conf/table/new.yaml", "conf/claims/1.yaml", "results/tables/a.md", "scripts/x.py", "docs/x.md"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x: 2\n")
    (checkout / "conf/table/a.yaml").write_text("x: 2\n")
    assert source(checkout / "layerfit").changed == ()
    assert dirt() is None
    made = manifest("cpu", {})
    assert made["dirty"] is False
    assert len(made["commit"]) == 40


def test_changed_and_new_code_is_dirty_and_named(checkout):
    git(checkout, "config", "status.showUntrackedFiles", "no")
    (checkout / "layerfit/__init__.py").write_text("x: 2\n")
    for name in "abc":
        (checkout / f"layerfit/{name}.py").write_text("")
    assert source(checkout / "layerfit").changed == tuple(f"layerfit/{name}.py" for name in ("__init__", "a", "b", "c"))
    assert "uncommitted changes (layerfit/__init__.py, layerfit/a.py, layerfit/b.py and 1 more)" in dirt()
    assert manifest("cpu", {})["dirty"] is True
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "b")
    assert dirt() is None


def test_another_repository_around_the_package_says_nothing_of_it(checkout, monkeypatch):
    """An environment inside somebody's own repository: its commit is not the package's."""
    inner = checkout / ".venv"
    (inner / "layerfit").mkdir(parents=True)
    (inner / "layerfit" / "__init__.py").write_text("")
    at(inner, monkeypatch)
    made = manifest("cpu", {})
    assert (made["commit"], made["dirty"]) == (None, None)
    assert "not known" in dirt()
