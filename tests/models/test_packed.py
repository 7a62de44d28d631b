"""Weights that are shipped compressed: every bit comes back, another version is seen, damage is named."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerfit.errors import UserError
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
