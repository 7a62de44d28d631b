"""Model folders as users have them, broken in every way that was met: one line, before anything starts."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerfit.config.schema import HubConfig, ModelConfig, PathsConfig
from layerfit.errors import UserError
from layerfit.launch import preflight
from layerfit.launch.preflight import check_model
from layerfit.models.architecture import read_anatomy
from layerfit.models.finite import first_not_finite
from layerfit.models.hub import MODELS, load_model, load_tokenizer
from layerfit.models.weights import check_weights
from layerfit.prefetch.check import lacks
from layerfit.prefetch.needs import Need
from tests.helpers.model_files import LLAMA, llama_shapes, safetensors, write_llama
from tests.helpers.tiny import composed

HUB = HubConfig(offline=True)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def model(folder: Path, **extra) -> ModelConfig:
    parts = ("num_layers", "max_positions", "blocks", "embedding", "norm", "head", "linear", "norms")
    return ModelConfig(name="m", id=None, path=str(folder), **dict.fromkeys(parts) | extra)


def check(folder: Path, **extra) -> None:
    """What preflight asks of a model."""
    config = model(folder, **extra)
    check_model(config, HUB, read_anatomy(config, folder))


def refused(folder: Path, match: str, **extra) -> None:
    with pytest.raises(UserError, match=match) as error:
        check(folder, **extra)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 700


@pytest.fixture
def folder(tmp_path):
    return write_llama(tmp_path / "model")


def test_a_whole_folder_passes(folder):
    check(folder)
    load_tokenizer(model(folder), HUB)
    assert first_not_finite(load_model(model(folder), HUB, "fp32")) is None


def cut(data: bytes) -> bytes:
    return data[:-100]


def with_header(data: bytes, change) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def of(header: dict, key: str = "model.norm.weight") -> dict:
    return header[key]


DAMAGED = {
    "a pointer of Git LFS": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        r"model.safetensors is a pointer .*git lfs pull",
    ),
    "a pointer of git-annex": (lambda _: b"/annex/objects/SHA256E-s1--00", "is a pointer"),
    "cut": (cut, r"has [\d,]+ bytes and its header says [\d,]+: it was cut or changed"),
    "cut in the header": (lambda data: data[:50], r"has 50 bytes and is not a whole safetensors file"),
    "longer": (lambda data: data + b"\0", "it was cut or changed"),
    "empty": (lambda _: b"", "has 0 bytes and is not a whole safetensors file"),
    "zeros": (lambda _: bytes(1000), "is not a whole safetensors file"),
    "a length beyond all": (lambda data: b"\xff" * 8 + data, "is not a whole safetensors file"),
    "text": (lambda _: b"<html>404: Not Found</html>" * 9, "is not a whole safetensors file"),
    "a header that is no JSON": (lambda data: data[:9] + b"}" + data[10:], "its header cannot be read"),
    "a header that is a list": (lambda _: struct.pack("<Q", 2) + b"[]", "its header cannot be read"),
    "offsets": (lambda d: with_header(d, lambda h: of(h).update(data_offsets=[0, 64])), "overlap or leave gaps"),
    "negative": (lambda d: with_header(d, lambda h: of(h).update(data_offsets=[-64, 0])), "header cannot be read"),
    "a size that is not the shape's": (lambda d: with_header(d, lambda h: of(h).update(shape=[17])), "cannot be read"),
    "a dtype of nobody": (lambda d: with_header(d, lambda h: of(h).update(dtype="F13")), "header cannot be read"),
    "nested": (lambda _: struct.pack("<Q", 90_000) + b"[" * 90_000, "header cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_weights_that_are_damaged(folder, name):
    damage, match = DAMAGED[name]
    (folder / WEIGHTS).write_bytes(damage((folder / WEIGHTS).read_bytes()))
    refused(folder, match)
    with pytest.raises(UserError, match=match):
        load_model(model(folder), HUB, "fp32")


def shard(folder: Path, weight_map: dict | None = None) -> None:
    """Two shards in place of one file, and their index."""
    shapes = llama_shapes(LLAMA)
    names = list(shapes)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, inside in parts.items():
        (folder / file).write_bytes(safetensors({name: shapes[name] for name in inside}))
    (folder / WEIGHTS).unlink()
    whole = {name: file for file, inside in parts.items() for name in inside}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": whole | (weight_map or {})}))


def test_shards(folder, tmp_path):
    shard(folder)
    check(folder)
    load_model(model(folder), HUB, "fp32")
    last = folder / "model-00002-of-00002.safetensors"
    kept = last.read_bytes()
    last.unlink()
    refused(folder, r"model-00002-of-00002.safetensors is missing; copy or fetch it again")
    last.write_bytes(cut(kept))
    refused(folder, r"model-00002-of-00002.safetensors .* it was cut")
    last.write_bytes(kept)
    (tmp_path / "secret.safetensors").write_bytes(kept)
    for outside in ("../secret.safetensors", str(tmp_path / "secret.safetensors")):
        text = json.loads((folder / INDEX).read_text())
        text["weight_map"]["model.norm.weight"] = outside
        (folder / "i.json").write_text(json.dumps(text))
        (folder / "i.json").replace(folder / INDEX)
        refused(folder, r"index.json names '.*secret.*', which is no path inside its folder")


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "{", '{"weight_map": {}}', "\ufeff{}"]
)
def test_an_index_that_is_none(folder, index):
    shard(folder)
    (folder / INDEX).write_text(index)
    refused(folder, r"index.json (is not an index of weights|is not JSON|holds a list)")


def test_a_tensor_that_is_not_where_the_index_says(folder):
    shard(folder, {"model.nowhere.weight": "model-00001-of-00002.safetensors"})
    refused(folder, r"model-00001-of-00002.safetensors holds no model.nowhere.weight, which .*index.json says")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": 32}, r"model.embed_tokens.weight is \[640, 16\] but config.json says \[640, 32\]"),
        ({"vocab_size": 639}, r"model.embed_tokens.weight is \[640, 16\] but config.json says \[639, 16\]"),
        ({"intermediate_size": 25}, r"mlp.gate_proj.weight is \[24, 16\] but config.json says \[25, 16\]"),
        ({"num_key_value_heads": 4}, r"self_attn.k_proj.weight is \[8, 16\] but config.json says \[16, 16\]"),
        ({"num_hidden_layers": 3}, r"config.json says 3 blocks and the weights have 2"),
        ({"num_hidden_layers": 1}, r"config.json says 1 blocks and the weights have 2"),
    ],
)
def test_shapes_that_contradict_the_configuration(folder, changes, match):
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    refused(folder, match)


def test_names_without_the_base_model(folder):
    """Published files of BLOOM and OPT have the decoder's names alone."""
    shapes = {name.removeprefix("model."): shape for name, shape in llama_shapes(LLAMA).items()}
    (folder / WEIGHTS).write_bytes(safetensors(shapes))
    assert len(check_weights(folder, LLAMA)) == len(shapes)
    with pytest.raises(UserError, match=r"mlp.gate_proj.weight is \[24, 16\] but"):
        check_weights(folder, LLAMA | {"intermediate_size": 25})


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "link to nothing", "link to itself"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS])
def test_what_is_no_file_does_not_hang(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "link to nothing": "nothing", "link to itself": name}[kind])
    refused(folder, rf"{name}|no weights|no tokenizer")


def test_pickles_are_read_as_tensors_alone(folder, tmp_path):
    load_model(model(folder), HUB, "fp32")
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    check(folder)
    assert first_not_finite(load_model(model(folder), HUB, "fp32")) is None
    whole = (folder / "pytorch_model.bin").read_bytes()
    for broken, match in ((whole[:-50], "not a whole archive"), (b"\x80\x02}.", "not a whole archive")):
        (folder / "pytorch_model.bin").write_bytes(broken)
        refused(folder, match)
    marker = tmp_path / "ran"
    for load in (pickled_call(marker, 2), pickled_call(marker, 4)):
        with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", load)
            archive.writestr("archive/version", "3")
        refused(folder, r"pytorch_model.bin is a pickle that would call '(posix.system|pickle.STACK_GLOBAL)'")
        with pytest.raises(UserError, match="is a pickle that would call"):
            load_model(model(folder), HUB, "fp32")
    assert not marker.exists()


def pickled_call(marker: Path, protocol: int) -> bytes:
    class Call:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    file = io.BytesIO()
    pickle.dump({"model.norm.weight": Call()}, file, protocol)
    return file.getvalue()


@pytest.mark.parametrize("where", ["vocabulary", "added", "unigram"])
def test_ids_beyond_the_embedding(folder, where):
    path = folder / "tokenizer.json"
    text = json.loads(path.read_text())
    if where == "vocabulary":
        text["model"]["vocab"]["far"] = 640
    elif where == "added":
        text["added_tokens"].append({"id": 640, "content": "far", "special": False})
    else:
        text["model"]["vocab"] = [[f"w{i}" if i < 640 else "far", 0.0] for i in range(641)]
    path.write_text(json.dumps(text))
    refused(folder, r"gives 'far' the id 640 and the model's embedding has 640 rows")
    refused(folder, r"gives 'far' the id 640", weights="random")


def test_ids_beyond_the_embedding_without_a_text_to_read_are_met_on_loading(folder):
    smaller = LLAMA | {"vocab_size": 100}
    (folder / "config.json").write_text(json.dumps(smaller))
    with pytest.raises(UserError, match=r"has 620 tokens and the model's embedding 100 rows"):
        load_tokenizer(model(folder), HUB)


@pytest.mark.parametrize("text", ["[]", "3", "{", "\ufeff{}", "[" * 100_000, '{"model": 3}', "", '{"a": ' + "9" * 9000])
def test_a_tokenizer_that_is_none(folder, text):
    (folder / "tokenizer.json").write_text(text)
    refused(folder, r"tokenizer.json (holds|is not JSON|is no tokenizer)")


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("data", [b"\xff\xfe{\x00}\x00", b"caf\xe9", b"null", b"{", b'"a"'])
def test_other_files_that_are_no_objects(folder, name, data):
    (folder / name).write_bytes(data)
    refused(folder, rf"{name} (is not UTF-8|is not JSON|holds)")
    with pytest.raises(UserError, match=name):
        load_tokenizer(model(folder), HUB)


def test_a_file_too_large_to_be_one(folder):
    with (folder / "generation_config.json").open("w") as file:
        file.truncate(2**40)  # sparse
    refused(folder, r"generation_config.json has 1,099,511,627,776 bytes")


@pytest.mark.parametrize("text", ["[]", "null", "5", "true", '"a"', "{", "", "\x00"])
@pytest.mark.parametrize("parts", [{}, {"num_layers": 2, "max_positions": 64}])
def test_a_configuration_that_is_no_object(folder, text, parts):
    (folder / "config.json").write_text(text)
    refused(folder, r"config.json (holds (a list|null|a number|true|a string)|is not JSON)", **parts)


SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
SIZES += ("max_position_embeddings", "vocab_size", "head_dim")


@pytest.mark.parametrize("value", [0, -1, 2.5, 2.0, "2", [2], {}, True, 10**12, 1e400])
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_is_none(folder, key, value):
    (folder / "config.json").write_text(json.dumps(LLAMA | {key: value}))
    refused(folder, rf"config.json: {key}=.* is not a whole number from 1 to")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": ["llama"]}, r"model_type=\['llama'\] is not a string"),
        ({"model_type": 3}, "model_type=3 is not a string"),
        ({"num_attention_heads": 3}, "num_key_value_heads=2 does not divide the 3 attention heads"),
        ({"hidden_size": 18, "head_dim": None}, "its 4 attention heads do not divide the width 18"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes' is not true or false"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config: its weights are quantized"),
        ({"transformers_weights": "../other.safetensors"}, "transformers_weights: it names its weights' file itself"),
    ],
)
def test_a_configuration_that_contradicts_itself(folder, changes, match):
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    refused(folder, match)


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": []},
        {"rope_parameters": 3},
        {"dtype": "zzz"},
        {"auto_map": 5},
        {"model_type": "no"},
        {"hidden_act": "zzz"},
    ],
)
def test_what_transformers_cannot_read_is_one_line_too(folder, changes):
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    with pytest.raises(UserError, match=r"model=m: (no configuration in|transformers cannot use)") as error:
        load_model(model(folder, num_layers=2), HUB, "fp32")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("also_config", [False, True])
def test_an_adapter_in_place_of_a_model(folder, also_config):
    """transformers would follow it to its base model, wherever that is."""
    if not also_config:
        (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
    refused(folder, r"holds an adapter \(adapter_config.json\), not a model; merge it into org/base .*merge_and_unload")
    with pytest.raises(UserError, match="holds an adapter"):
        load_model(model(folder, num_layers=2), HUB, "fp32")
    (folder / "adapter_config.json").replace(folder / "bottleneck.json")
    refused(folder, r"holds an adapter \(bottleneck.json\), not a model; give its base model's folder")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_weights_that_are_no_numbers(folder, value, dtype):
    weights = load_file(folder / WEIGHTS)
    for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
        weights[name].view(-1)[3] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    check(folder)
    with pytest.raises(UserError, match=r"model.layers.1.mlp.up_proj.weight of .* holds NaN or infinite numbers"):
        load_model(model(folder), HUB, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 1, 7, 31, 12_345, 209_999])
def test_a_number_that_is_none_is_found_anywhere(dtype, place):
    """The largest magnitude is taken in vectors of several numbers: each of them has to hand a NaN on."""
    module = torch.nn.Sequential(torch.nn.Linear(300, 700, dtype=dtype), torch.nn.Linear(700, 3, dtype=dtype))
    assert first_not_finite(module) is None
    module[0].weight.data.view(-1)[place] = float("nan")
    module[1].bias.data[0] = float("nan")
    assert first_not_finite(module) == "0.weight"


def test_the_largest_numbers_are_finite():
    module = torch.nn.Linear(3, 3).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(torch.finfo(torch.bfloat16).max)
    assert first_not_finite(module) is None


def test_space_is_said_in_units_that_show_it(folder, monkeypatch):
    run = composed("method=full", "training.checkpoint_every=1")
    run.model, run.hub, run.paths = model(folder), HUB, PathsConfig(outputs=str(folder), results=str(folder))
    needed = preflight.bytes_needed(run, folder)
    for free in (1000, needed - 1):
        monkeypatch.setattr(
            preflight.shutil, "disk_usage", lambda _, free=free: preflight.shutil._ntuple_diskusage(0, 0, free)
        )
        with pytest.raises(UserError, match=r"needs about [\d.]+ KiB .*, ([\d.]+ Ki)?[\dB ]*are free") as error:
            preflight.check_space(run)
        assert "0.0" not in str(error.value)


def test_a_mirror_with_broken_weights_is_not_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = write_llama(tmp_path / "mirror/models/org/name")
    need = Need(MODELS, "org/name", weights=True)
    assert lacks(need, tmp_path / "mirror") == []
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(cut(whole))
    [line] = lacks(need, tmp_path / "mirror")
    assert "it was cut or changed" in line
    (folder / WEIGHTS).write_bytes(whole)
    (folder / "adapter_config.json").write_text("{}")
    [line] = lacks(need, tmp_path / "mirror")
    assert "holds an adapter" in line
