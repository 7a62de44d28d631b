"""Where configuration is and which code this is: in a checkout, in a wheel, and where nobody knows."""

import json
import subprocess

import pytest

from layerfit.installation import BUILD, NOT_KNOWN, Source, build_record, checkout, command_for, conf_folder, source
from layerfit.records.manifest import manifest


@pytest.fixture
def package(tmp_path):
    """A source tree without git: a package with one module, and configuration beside it."""
    (tmp_path / "layerfit").mkdir()
    (tmp_path / "layerfit" / "run.py").write_text("STEPS = 1\n")
    (tmp_path / "conf").mkdir()
    return tmp_path / "layerfit"


def git(folder, *words):
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *name, *words], check=True, capture_output=True)


def installed(package, tmp_path):
    """The same package as a wheel installs it."""
    site = tmp_path / "site-packages" / "layerfit"
    (site / "conf").mkdir(parents=True)
    (site / "run.py").write_bytes((package / "run.py").read_bytes())
    (site / BUILD).write_text(json.dumps(build_record(package, site)))
    return site


def test_the_package_has_its_own_configuration_or_the_checkouts(package):
    assert (conf_folder(package), checkout(package)) == (package.parent / "conf", package.parent)
    (package / "conf").mkdir()
    assert (conf_folder(package), checkout(package)) == (package / "conf", None)


def test_nobody_knows_the_code_outside_git(package):
    assert source(package) == Source(None, None, NOT_KNOWN)


def test_another_projects_commit_is_not_ours(package):
    git(package.parent.parent, "init")
    git(package.parent.parent, "commit", "--allow-empty", "-m", "theirs")
    assert source(package).commit is None


def test_a_wheel_knows_the_commit_and_whether_the_tree_was_clean(package, tmp_path):
    root = package.parent
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "ours")
    commit = source(package).commit
    assert len(commit) == 40
    site = installed(package, tmp_path)
    assert source(site) == Source(commit, False)
    (package / "run.py").write_text("STEPS = 2\n")
    assert source(package) == Source(commit, True, changed=("layerfit/run.py",))
    assert source(installed(package, tmp_path / "other")) == Source(commit, True)


def test_an_installed_file_that_was_edited_makes_it_dirty(package, tmp_path):
    git(package.parent, "init")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-m", "ours")
    site = installed(package, tmp_path)
    (site / "__pycache__").mkdir()
    (site / "__pycache__" / "run.pyc").write_text("compiled")
    (site / "conf" / "mine.yaml").write_text("")  # records hold its values
    assert source(site).dirty is False
    (site / "run.py").write_text("STEPS = 3\n")
    assert source(site).dirty is True


def test_a_record_says_why_its_commit_is_not_known(monkeypatch, package):
    monkeypatch.setattr("layerfit.records.manifest.source", lambda: source(package))
    made = manifest("cpu", {})
    assert (made["commit"], made["dirty"], made["commit_unknown"]) == (None, None, NOT_KNOWN)
    assert made["versions"]["layerfit"]
    monkeypatch.undo()
    assert "commit_unknown" not in manifest("cpu", {})


def test_messages_name_make_only_where_there_is_a_makefile(monkeypatch):
    assert command_for("todo", "x") == "make todo T=x"
    monkeypatch.setattr("layerfit.installation.checkout", lambda: None)
    assert command_for("todo", "x") == "layerfit todo x"
