"""Weights that are shipped compressed: every bit comes back, another version is seen, damage is named."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerfit.errors import UserError
from layerfit.models import packed as module
from layerfit.models.packed import PACKED, WEIGHTS, pack, unpack


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_file({"w": torch.randn(64, 64).bfloat16()}, tmp_path / WEIGHTS)
    return tmp_path


def test_every_bit_comes_back(folder):
    before = (folder / WEIGHTS).read_bytes()
    assert pack(folder, 2).stat().st_size < 0.8 * len(before)
    (folder / WEIGHTS).unlink()
    unpack(folder)
    assert (folder / WEIGHTS).read_bytes() == before


def test_another_version_is_unpacked_and_the_same_one_is_not(folder):
    pack(folder, 2)
    old = (folder / PACKED).read_bytes()
    save_file({"w": torch.zeros(64, 64).bfloat16()}, folder / WEIGHTS)
    pack(folder, 2)
    written = (folder / WEIGHTS).stat().st_ino
    unpack(folder)
    assert (folder / WEIGHTS).stat().st_ino == written
    (folder / PACKED).write_bytes(old)
    os.utime(folder / PACKED, ns=(1, 1))  # an installer may keep an older date
    unpack(folder)
    assert load_file(folder / WEIGHTS)["w"].any()


def test_damage_is_named(folder):
    pack(folder, 2)
    (folder / WEIGHTS).unlink()
    (folder / PACKED).write_bytes((folder / PACKED).read_bytes()[:-40])
    with pytest.raises(UserError, match=r"model\.safetensors\.xz is damaged: .* install it again"):
        unpack(folder)
    assert not (folder / WEIGHTS).exists()


def test_a_folder_without_compressed_weights_is_left_alone(folder):
    before = (folder / WEIGHTS).read_bytes()
    unpack(folder)
    assert (folder / WEIGHTS).read_bytes() == before


def test_where_the_folder_cannot_be_written_to_its_copy_is_read(folder, tmp_path, monkeypatch):
    (folder / "config.json").write_text("{}")
    before = (folder / WEIGHTS).read_bytes()
    pack(folder, 2)
    (folder / WEIGHTS).unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write = module.write_atomically

    def refuse(path, data):
        if path.parent == folder:
            raise PermissionError("read-only")
        write(path, data)

    monkeypatch.setattr(module, "write_atomically", refuse)
    copy = unpack(folder)
    assert copy.is_relative_to(tmp_path / "cache")
    assert ((copy / WEIGHTS).read_bytes(), (copy / "config.json").read_text()) == (before, "{}")
    monkeypatch.setattr(module, "write_atomically", None)  # the second time nothing is written
    assert unpack(folder) == copy
    monkeypatch.setattr(module, "write_atomically", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    with pytest.raises(UserError, match="neither in its folder nor in"):
        unpack(folder)
