"""A mirror is filled with what runs read, at the pinned revision, whole; and what is missing is named."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import datasets
import pytest

from layerfit import config
from layerfit.config.schema import HubConfig
from layerfit.evaluation.lm_eval.tasks import PACKAGE
from layerfit.launch import preflight
from layerfit.models import receipt
from layerfit.models.hub import DATASETS, EMBEDDED, MODELS, origin
from layerfit.models.packed import PACKED
from layerfit.prefetch.check import missing, offline
from tests.helpers.hub_server import Hub, serving

NANO = [path for path in (EMBEDDED / "models/layerfit/nano").iterdir() if path.name != PACKED]
TINY = {path.name: path.read_bytes() for path in NANO}
ROWS = b"".join(json.dumps({"instruction": f"i{n}", "input": "", "output": "o"}).encode() + b"\n" for n in range(5))
WORDS = ["model=hf", "model.id=org/tiny", "dataset=alpaca_cleaned", "dataset.id=org/data", "dataset.num_validation=1"]
WORDS += ["training.max_length=8", "eval=none"]


def command(hub, mirror, *words):
    env = {key: value for key, value in os.environ.items() if not key.endswith("_OFFLINE") and key != "HF_TOKEN"}
    env |= {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(PACKAGE.parent), "HF_HOME": str(mirror.parent / "home")}
    return [sys.executable, "-m", "layerfit.prefetch", *words, "--mirror", str(mirror)], env


def prefetch(hub, mirror, *words, **more):
    line, env = command(hub, mirror, *words)
    done = subprocess.run(line, env=env | more, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def compose(*words):
    with config.composer():
        return config.compose(words)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub():
    """A model, a data set and, in another revision, another model of the same name."""
    hub = Hub()
    hub.add(MODELS, "org/tiny", {**TINY, "config.json": b"{}"})
    hub.add(MODELS, "org/tiny", TINY, "v1")
    hub.add(DATASETS, "org/data", {"data.json": ROWS, "dataset_infos.json": b"{}", ".gitattributes": b""})
    with serving(hub):
        yield hub


def test_a_run_without_network_finds_what_was_fetched(tmp_path, hub, monkeypatch):
    """The connection breaks once, within the weights; of the weights there are copies that nothing would load."""
    copies = dict.fromkeys(("pytorch_model.bin", "tiny.gguf", "original/consolidated.00.pth"), b"x" * 99)
    commit = hub.add(MODELS, "org/tiny", TINY | copies, "v1")
    script = hub.add(DATASETS, "Salesforce/wikitext", {"wikitext.py": b"", "README.md": b"---\nlicense: mit\n---\n"})
    parquet = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"text": ["a b"] * 3}).to_parquet(parquet)
    converted = {f"{subset}/test/0000.parquet": parquet.read_bytes() for subset in ("wikitext-2-raw-v1", "other")}
    branch = hub.add(DATASETS, "Salesforce/wikitext", converted, "refs/convert/parquet")
    hub.cut["model.safetensors"] = 1
    words, mirror = [*WORDS[:-1], "eval=wikitext_ppl", "model.revision=v1"], tmp_path / "mirror"
    done = prefetch(hub, mirror, *words)
    assert done.returncode == 0, done.stderr
    assert "complete: " in done.stdout

    assert files(mirror / "models/org/tiny") == {*TINY, receipt.NAME} - {"README.md"}
    assert all((mirror / "models/org/tiny" / name).read_bytes() == TINY[name] for name in {*TINY} - {"README.md"})
    assert files(mirror / "datasets/org/data") == {"data.json", receipt.NAME}
    assert files(mirror / "datasets/Salesforce/wikitext") == {"wikitext-2-raw-v1/test/0000.parquet", receipt.NAME}
    half = len(TINY["model.safetensors"]) // 2
    assert [r for name, r in hub.downloads() if name == "model.safetensors"] == [None, f"bytes={half}-"]
    assert origin(MODELS, "org/tiny", HubConfig(mirror=str(mirror))) == f"mirror@{commit}"
    assert script != branch == origin(DATASETS, "Salesforce/wikitext", HubConfig(mirror=str(mirror)))[7:]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    preflight.preflight(offline(compose(*words), mirror))

    hub.seen.clear()
    again = prefetch(hub, mirror, *words)
    assert (again.returncode, hub.seen) == (0, [])


@pytest.mark.slow
def test_a_killed_fetch_goes_on_where_it_was(tmp_path, hub):
    hub.stalled["model.safetensors"] = threading.Event()
    mirror, size = tmp_path / "mirror", len(TINY["model.safetensors"])
    words = [*WORDS, "model.revision=v1"]
    line, env = command(hub, mirror, *words)
    process = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while not any(p.stat().st_size >= 2**20 for p in mirror.rglob(".model.safetensors.*.part")):
        assert time.monotonic() < until, "nothing arrives"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.stalled.pop("model.safetensors").set()
    [line] = missing([compose(*words[:2], "model.revision=v1", "dataset=nano", *WORDS[-2:])], mirror, "do this")
    assert "model.safetensors is missing; do this" in line
    hub.seen.clear()
    assert prefetch(hub, mirror, *words).returncode == 0
    begins = [r for name, r in hub.downloads() if name == "model.safetensors"]
    assert begins[0] is not None
    assert 2**20 <= int(begins[0].removeprefix("bytes=").removesuffix("-")) < size
    assert (mirror / "models/org/tiny/model.safetensors").read_bytes() == TINY["model.safetensors"]
    assert not list(mirror.rglob("*.part"))


def hub_download(hub, folder, commit):
    code = "from huggingface_hub import hf_hub_download as get\nimport sys\n"
    code += "get('org/big', 'w.bin', revision=sys.argv[1], local_dir=sys.argv[2])"
    _, env = command(hub, folder)
    return subprocess.Popen([sys.executable, "-c", code, commit, str(folder)], env=env, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_why_huggingface_hub_does_not_write_the_files(tmp_path, hub):
    """Both reasons stand in prefetch/remote.py. If this fails, its own download may do, and Xet with it."""
    content = os.urandom(2**25)
    commit = hub.add(MODELS, "org/big", {"w.bin": content})
    hub.stalled["w.bin"] = threading.Event()
    process, until = hub_download(hub, tmp_path / "killed", commit), time.monotonic() + 30
    while not any(path.stat().st_size >= 2**23 for path in tmp_path.rglob("*.incomplete")):
        assert time.monotonic() < until, "nothing arrives"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.stalled.pop("w.bin").set()
    hub.seen.clear()
    assert hub_download(hub, tmp_path / "killed", commit).wait() == 0
    assert hub.downloads() == [("w.bin", None)], "it goes on where it was"
    assert list(tmp_path.rglob("*.incomplete")), "it clears away what a killed process left"
    hub.spoilt.add("w.bin")
    assert hub_download(hub, tmp_path / "spoilt", commit).wait() == 0, "it compares hashes"
    assert (tmp_path / "spoilt/w.bin").read_bytes() == content[::-1]


@pytest.mark.slow
def test_another_revision_replaces_what_differs(tmp_path, hub):
    """The server starts every transfer from the beginning, also after a break."""
    hub.whole, hub.cut["model.safetensors"], mirror = True, 1, tmp_path / "mirror"
    hub.add(MODELS, "org/tiny", {**TINY, "generation_config.json": b"{}"}, "v1")
    assert prefetch(hub, mirror, *WORDS, "model.revision=v1").returncode == 0
    assert len([name for name, _ in hub.downloads() if name == "model.safetensors"]) == 2
    commit = hub.add(MODELS, "org/tiny", {**TINY, "config.json": TINY["config.json"] + b" "}, "v2")
    hub.seen.clear()
    assert prefetch(hub, mirror, *WORDS, "model.revision=v2").returncode == 0
    assert [name for name, _ in hub.downloads()] == ["config.json"]
    assert files(mirror / "models/org/tiny") == {*TINY, receipt.NAME} - {"README.md"}
    found = receipt.read(mirror / "models/org/tiny")
    assert (found.revision, found.commit, found.complete) == ("v2", commit, True)


def test_a_damaged_file_is_found_and_fetched_again(tmp_path, hub, monkeypatch):
    mirror, words = tmp_path / "mirror", [*WORDS, "model.revision=v1"]
    assert prefetch(hub, mirror, *words).returncode == 0
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    path = mirror / "datasets/org/data/data.json"
    path.write_bytes(ROWS.replace(b"i3", b"i4"))
    assert missing([compose(*words)], mirror, "again") == []
    [line] = missing([compose(*words)], mirror, "again", hashes=True)
    assert line == f"{path} is damaged: its content differs from the hub's; again"
    hub.seen.clear()
    assert prefetch(hub, mirror, *words, "--hash").returncode == 0
    assert hub.downloads() == [("data.json", None)]
    assert path.read_bytes() == ROWS
    path.write_bytes(ROWS[:-1])
    assert "bytes, not" in missing([compose(*words)], mirror, "again")[0]
    path.unlink()
    assert "data.json is missing" in missing([compose(*words)], mirror, "again")[0]
    path.write_bytes(ROWS)
    [line] = missing([compose(*WORDS, "model.revision=v2")], mirror, "again")
    assert line == f"{mirror}/models/org/tiny holds v1 and model org/tiny is pinned at v2; again"
    found = receipt.read(path.parent)
    receipt.write(path.parent, dataclasses.replace(found, complete=False))  # as a kill before the last line leaves it
    assert missing([compose(*words)], mirror, "again") == [f"{path.parent} was not completely fetched; again"]
    assert origin(DATASETS, "org/data", HubConfig(mirror=str(mirror))) == "mirror"
    hub.seen.clear()
    assert (prefetch(hub, mirror, *words).returncode, hub.seen) == (0, [])
    assert receipt.read(path.parent) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gated": {"org/tiny"}}, "model org/tiny is gated.* accept its licence at .*/org/tiny .*hf auth login"),
        ({"spoilt": {"data.json"}}, "dataset org/data, file data.json: as .* sends it, it is damaged"),
        ("model.revision=gone", "model org/tiny has no revision gone; set model.revision"),
        ("model.id=org/none", r"model org/none is gated, private, or missing \(401\)"),
        ("hub.offline=true", "hub.offline=true forbids fetching"),
        ("HF_HUB_OFFLINE", "HF_HUB_OFFLINE .* is set"),
        ("down", "cannot be reached"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_and_the_rest_is_kept(tmp_path, hub, change, message):
    words, more = ["model.revision=v1"], {}
    if isinstance(change, dict):
        for key, value in change.items():
            setattr(hub, key, value)
    elif "=" in change:
        words.append(change)
    else:
        more = {"HF_HUB_OFFLINE": "1"} if change == "HF_HUB_OFFLINE" else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = prefetch(hub, tmp_path / "mirror", *WORDS, *words, **more)
    asked_wrongly = "OFFLINE" in str(change).upper()
    assert done.returncode == (2 if asked_wrongly else 1)
    lines = [line for line in done.stderr.splitlines() if line.startswith("prefetch: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    kept = {"datasets/org/data/data.json", "models/org/tiny/model.safetensors"}
    wanted = set() if asked_wrongly or change == "down" else kept - {"models/org/tiny/model.safetensors"}
    wanted = kept - {"datasets/org/data/data.json"} if isinstance(change, dict) and "spoilt" in change else wanted
    assert asked_wrongly or "make prefetch G=" in done.stdout
    assert {f for f in kept if (tmp_path / "mirror" / f).is_file()} == wanted


@pytest.mark.slow
def test_a_folder_filled_by_hand_is_never_overwritten(tmp_path, hub):
    """What is the hub's is taken over; what is not stays, and is said."""
    folder = tmp_path / "mirror/models/org/tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(TINY["config.json"])
    done = prefetch(hub, tmp_path / "mirror", *WORDS, "model.revision=v1")
    assert done.returncode == 0, done.stderr
    assert "config.json" not in [name for name, _ in hub.downloads()]
    (folder / ".layerfit-prefetch.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_bytes(TINY["config.json"] + b" ")
    done = prefetch(hub, tmp_path / "mirror", *WORDS, "model.revision=v1")
    assert done.returncode == 1
    assert re.search(r"prefetch: .*config.json was put there by hand .*; move .*/org/tiny away", done.stderr)
    assert (folder / "config.json").read_bytes() == TINY["config.json"] + b" "
