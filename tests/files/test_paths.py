"""Paths from outside: expanded in one place, or refused in one line; names from outside stay inside."""

import os
from pathlib import Path

import pytest

from layerfit.errors import UserError
from layerfit.files.paths import expand, inside
from layerfit.files.writing import write_atomically


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("paths.outputs", "~/x") == tmp_path / "x"
    assert expand("paths.outputs", "a/~b") == Path("a/~b")


@pytest.mark.parametrize("text", ["", "  ", "~nobodyhere/x", "y" * 300, "a/" * 3000, "a\0b", "a\nb", "\ud83d"])
def test_what_no_file_can_be_called_is_refused(text):
    with pytest.raises(UserError, match=r"dataset\.path=") as error:
        expand("dataset.path", text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x", "a\0"])
def test_a_name_stays_inside(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="the listing names"):
        inside(root, name, "the listing")


def test_a_name_that_is_inside_is_given_back(tmp_path):
    assert inside(tmp_path, "a/../b", "the listing") == tmp_path / "a/../b"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_that_the_user_wants(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a" / "b", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o666 & ~mask
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
