"""Ids, revisions, listings and receipts from outside lead nowhere else than into their folder."""

import hashlib
import json
import re

import pytest
from huggingface_hub import HfApi
from huggingface_hub.hf_api import DatasetInfo, ModelInfo

from layerfit.config.schema import HubConfig, ModelConfig
from layerfit.data.sources import Part
from layerfit.errors import UserError
from layerfit.files.names import check_file, is_repository, is_revision
from layerfit.models import hub as hub_module
from layerfit.models import receipt
from layerfit.models.hub import DATASETS, MODELS, cached_snapshot, dataset_source, local_copy, model_source
from layerfit.prefetch import fetch, remote
from layerfit.prefetch.needs import Need
from layerfit.prefetch.remote import Trouble

DATA = b'{"instruction": "a", "output": "b"}\n'
HASH = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
COMMIT, SIZE = "c" * 40, len(DATA)
OUTSIDE = ["../x.json", "/etc/x.json", "a/../../x.json", "..", ".", "", "a//b.json", "./a.json", "a\0.json", "a\n.json"]
OUTSIDE += ["\x1b[2J.json", "a/./b.json", "a/", "/", "x" * 2000]


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror, and beside it what must not be reached."""
    monkeypatch.setattr(hub_module, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mirror/models/org/name").mkdir(parents=True)
    (tmp_path / "mirror/datasets").mkdir()
    (tmp_path / "secret").mkdir()
    return tmp_path / "mirror"


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_of_a_folder(name):
    with pytest.raises(UserError, match="the list names") as error:
        check_file("the list", name)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_names_that_files_of_the_hub_have():
    for name in ("a.json", "data/train-00000-of-00001.parquet", "a b/ü (1).json", ".gitattributes", "a..b/..c"):
        check_file("the list", name)


@pytest.mark.parametrize(
    "repo", ["../..", "..", ".", "", "/", "a/b/c", "/a", "a/", "../a", "a/..", "a b", "a\n", "~", "a/.b", "-a", "ü" * 3]
)
def test_ids_that_are_none(mirror, repo):
    hub = HubConfig(mirror=str(mirror), offline=True)
    for kind, find in (
        (MODELS, lambda: model_source(ModelConfig(name="m", id=repo), hub)),
        (DATASETS, lambda: dataset_source(repo, hub)),
    ):
        with pytest.raises(UserError, match=r"id=.* is not an id of the hub; give org/name") as error:
            find()
        assert "\n" not in str(error.value)
        assert local_copy(kind, repo, hub) is None
        assert cached_snapshot(kind, repo, None) is None
        with pytest.raises(UserError, match="is not an id of the hub"):
            Need(kind, repo)


def test_ids_and_revisions_of_the_hub():
    for repo in ("org/name", "gsm8k", "meta-llama/Llama-2-7b-hf", "a/b.c_d-E", "TinyLlama/TinyLlama-1.1B-3T", "local"):
        assert is_repository(repo)
    for revision in ("main", COMMIT, "refs/pr/1", "refs/convert/parquet", "v1.0", "step1000-tokens4B"):
        assert is_revision(revision)


@pytest.mark.parametrize("revision", ["../../../secret", "..", "/etc", "a//b", "a b", "a\n", "refs/../..", "x" * 999])
def test_revisions_that_are_none(mirror, revision):
    with pytest.raises(UserError, match="is not a revision; give a commit, a tag or a branch") as error:
        model_source(ModelConfig(name="m", id="org/other", revision=revision), HubConfig(offline=True))
    assert "\n" not in str(error.value)
    assert cached_snapshot(MODELS, "org/name", revision) is None
    with pytest.raises(UserError, match="is not a revision"):
        Need(MODELS, "org/name", revision)


def test_a_reference_in_the_cache_that_leads_out_of_it(mirror, tmp_path):
    refs = tmp_path / "cache/models--org--other/refs"
    refs.mkdir(parents=True)
    (refs.parent / "snapshots").mkdir()
    for text in (b"../../../secret", str(tmp_path / "secret").encode(), b"\xff\xfe", b""):
        (refs / "main").write_bytes(text)
        assert cached_snapshot(MODELS, "org/other", None) is None


@pytest.mark.parametrize(
    ("key", "value"), [("model.path", "~nobodyhere/x"), ("dataset.path", "y" * 300), ("hub.mirror", "a\0b")]
)
def test_paths_that_no_file_has(key, value):
    find = {
        "model.path": lambda: model_source(ModelConfig(name="m", id=None, path=value), HubConfig()),
        "dataset.path": lambda: dataset_source("local", HubConfig(), value),
        "hub.mirror": lambda: model_source(ModelConfig(name="m", id="org/x"), HubConfig(mirror=value)),
    }
    with pytest.raises(UserError, match=key):
        find[key]()


def listing(monkeypatch, siblings, kind=DATASETS, **more):
    """Let the hub answer so."""
    body = {"id": "org/data", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False} | more
    info = DatasetInfo if kind == DATASETS else ModelInfo
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: info(**json.loads(json.dumps(body))))


def sibling(name="train.jsonl", size=SIZE, blob=HASH):
    return {"rfilename": name, "size": size, "blobId": blob}


def plan(mirror, subset=None):
    part = Part("dataset=data", "org/data", subset)
    return fetch.make_plan(Need(DATASETS, "org/data", parts=(part,)), mirror)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_listing_that_leads_out_of_the_mirror(mirror, monkeypatch, name):
    before = {str(path) for path in mirror.parent.rglob("*")}
    listing(monkeypatch, [sibling(), sibling(name)])
    with pytest.raises(Trouble, match=r"dataset org/data: the list of .* cannot be used: the list of files names") as e:
        plan(mirror)
    assert "\n" not in str(e.value)
    assert {str(path) for path in mirror.parent.rglob("*")} == before


@pytest.mark.parametrize(
    ("siblings", "more"),
    [
        ([sibling(receipt.NAME)], {}),
        ([sibling(size=-1)], {}),
        ([sibling(size=2**70)], {}),
        ([sibling(size="12")], {}),
        ([sibling(size=None)], {}),
        ([sibling(blob="../../x")], {}),
        ([sibling(blob=None)], {}),
        ([sibling(blob=5)], {}),
        ([{"size": 3}], {}),
        ([sibling(), 5], {}),
        ([sibling()], {"sha": "../x"}),
        ([sibling()], {"sha": 5}),
        ([sibling()], {"sha": None}),
        ("none", {}),
    ],
)
def test_a_listing_that_is_none(mirror, monkeypatch, siblings, more):
    listing(monkeypatch, siblings, **more)
    with pytest.raises(Trouble, match=r"(cannot be used|cannot be read)") as error:
        plan(mirror)
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, remote.Unreachable)


@pytest.mark.parametrize(
    "configs",
    [[{"data_files": "x"}], [{"config_name": 3, "data_files": 5}], [5], [{"config_name": "a", "data_files": {"x": 3}}],
     [{"config_name": "a", "data_files": [None, "../*.jsonl", "/etc/*"]}]],
)  # fmt: skip
def test_a_card_that_names_no_files(mirror, monkeypatch, configs):
    listing(monkeypatch, [sibling()], cardData={"configs": configs})
    assert [file.path for file in plan(mirror).fetch] == ["train.jsonl"]
    with pytest.raises(Trouble, match="org/data has no Parquet or JSON files for b"):
        plan(mirror, "b")


def test_a_file_is_never_written_through_a_link(mirror, monkeypatch, tmp_path):
    folder = mirror / "datasets/org/data"
    folder.mkdir(parents=True)
    (folder / "sub").symlink_to(tmp_path / "secret")
    monkeypatch.setattr(remote, "_fill", lambda *a: a[4].write_bytes(DATA))
    file = receipt.File("sub/train.jsonl", SIZE, HASH)
    with pytest.raises(Trouble, match=r"names 'sub/train.jsonl', which is outside"):
        remote.fetch(DATASETS, "org/data", COMMIT, file, folder, lambda _: None)
    assert list((tmp_path / "secret").iterdir()) == []
    remote.fetch(DATASETS, "org/data", COMMIT, receipt.File("own/t.jsonl", SIZE, HASH), folder, lambda _: None)
    assert (folder / "own/t.jsonl").read_bytes() == DATA


@pytest.mark.parametrize("where", ["file", "parent"])
def test_a_folder_where_a_file_belongs(mirror, monkeypatch, where):
    folder = mirror / "datasets/org/data"
    (folder / "a/b.jsonl").mkdir(parents=True) if where == "file" else folder.mkdir(parents=True)
    if where == "parent":
        (folder / "a").write_text("x")
    monkeypatch.setattr(remote, "_fill", lambda *a: a[4].write_bytes(DATA))
    with pytest.raises(Trouble, match="a folder and a file of one name; move it away") as error:
        remote.fetch(DATASETS, "org/data", COMMIT, receipt.File("a/b.jsonl", SIZE, HASH), folder, lambda _: None)
    assert "\n" not in str(error.value)


def test_other_bytes_than_listed_are_refused(mirror, monkeypatch):
    folder = mirror / "datasets/org/data"
    monkeypatch.setattr(remote, "_fill", lambda *a: a[4].write_bytes(DATA[::-1]))
    with pytest.raises(Trouble, match="it is damaged"):
        remote.fetch(DATASETS, "org/data", COMMIT, receipt.File("a.jsonl", SIZE, HASH), folder, lambda _: None)
    assert list(folder.iterdir()) == []


WHOLE = {"kind": DATASETS, "repo": "org/data", "revision": None, "commit": COMMIT, "branch": None, "weights": False}
WHOLE |= {"subsets": None, "complete": True, "files": [{"path": "train.jsonl", "size": len(DATA), "hash": HASH}]}


@pytest.mark.parametrize(
    "change",
    [
        *({"files": [{"path": name, "size": 3, "hash": HASH}]} for name in OUTSIDE),
        {"files": [{"path": "a", "size": -3, "hash": HASH}]},
        {"files": [{"path": "a", "size": 3, "hash": "x"}]},
        {"files": [{"path": 3, "size": 3, "hash": HASH}]},
        {"files": [5]},
        {"files": None},
        {"commit": 5},
        {"commit": "../x"},
        {"revision": ["x"]},
        {"subsets": 5},
        {"more": 1},
    ],
)
def test_a_receipt_that_is_none(mirror, change):
    folder = mirror / "datasets/org/data"
    folder.mkdir(parents=True)
    (folder / receipt.NAME).write_text(json.dumps(WHOLE | change))
    with pytest.raises(UserError, match=r"is not a receipt of layerfit.prefetch .*; delete it, fetch again") as error:
        receipt.read(folder)
    assert "\n" not in str(error.value)
    (folder / receipt.NAME).write_text(json.dumps(WHOLE))
    assert receipt.read(folder).complete


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, "\ufeff", "null"])
def test_a_receipt_that_is_no_object(mirror, text):
    folder = mirror / "models/org/name"
    (folder / receipt.NAME).write_text(text)
    with pytest.raises(UserError, match=re.escape(receipt.NAME)):
        receipt.read(folder)


def test_a_mirrored_folder_may_be_a_link(mirror, tmp_path):
    """Large models lie on another disk: a link that the user has put there is followed."""
    (mirror / "models/org/linked").symlink_to(tmp_path / "secret")
    assert local_copy(MODELS, "org/linked", HubConfig(mirror=str(mirror))) == mirror / "models/org/linked"
