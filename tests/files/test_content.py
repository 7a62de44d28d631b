"""What counts in a file or folder, by content; each file is read once, and a change is always seen."""

import json
import os
import time
from pathlib import Path

import pytest

from layerfit.errors import UserError
from layerfit.files import content
from layerfit.files.content import digest, of_data, of_file, of_model

ROWS = '{"prompt": "a", "response": "b"}\n'


@pytest.fixture(autouse=True)
def reads(tmp_path, monkeypatch):
    """Files that were read, in order; the user's cache is a folder of the test's, and nothing is known yet."""
    found, real = [], content._read
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_known", {})
    monkeypatch.setattr(content, "_read", lambda path: found.append(path.name) or real(path))
    return found


def files(root: Path, names: dict[str, str]) -> Path:
    for name, text in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def old(path: Path, seconds: float = 60) -> Path:
    """Let a file have been changed long ago: its time of change cannot be set, so the clock is."""
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_a_file_counts_by_content_not_by_name(tmp_path):
    files(tmp_path, {"a.jsonl": ROWS, "b.jsonl": ROWS, "c.jsonl": ROWS + ROWS})
    assert of_data(tmp_path / "a.jsonl") == of_data(tmp_path / "b.jsonl") != of_data(tmp_path / "c.jsonl")


BESIDE = ["NOTES.txt", ".cache/x.jsonl", ".hidden.jsonl", "outputs/i/metrics.jsonl", "results/runs/i.json", "README.md"]


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_not_read_does_not_count(tmp_path, name):
    folder = files(tmp_path / "f", {"train.jsonl": ROWS})
    before = of_data(folder)
    files(folder, {name: "---\nlicense: mit\n---\nx\n"})
    assert of_data(folder) == before


@pytest.mark.parametrize("change", [{"train.jsonl": "x"}, {"test.jsonl": ROWS}, {"more.json": "[]"}])
def test_what_is_read_counts(tmp_path, change):
    folder = files(tmp_path / "f", {"train.jsonl": ROWS})
    before = of_data(folder)
    assert of_data(files(folder, change)) != before


def test_names_decide_splits_so_they_count_in_a_folder(tmp_path):
    one, two = (files(tmp_path / n, {f"{n}.jsonl": ROWS}) for n in ("train", "test"))
    assert of_data(one) != of_data(two)


def test_the_layouts_of_a_folder(tmp_path):
    """As `data.sources.data_files` reads them: `data/`, a subset, subfolders named after splits."""
    folder = files(tmp_path, {"data/train.jsonl": "1", "sub/test.jsonl": "2", "sub/x/a.jsonl": "3", "b/t/a.json": "4"})
    whole, subset, inner = of_data(folder), of_data(folder, "sub"), of_data(folder, "b")
    files(folder, {"sub/x/a.jsonl": "changed"})
    assert (of_data(folder), of_data(folder, "sub"), of_data(folder, "b")) == (whole, subset, inner)
    files(folder, {"b/t/a.json": "changed"})
    assert of_data(folder, "b") != inner
    files(folder, {"data/train.jsonl": "changed", "sub/test.jsonl": "changed"})
    assert of_data(folder) != whole
    assert of_data(folder, "sub") != subset


CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n"


def test_a_cards_patterns_are_followed(tmp_path):
    folder = files(tmp_path / "f", {"README.md": CARD.format("results/*.csv"), "results/a.csv": "1", "b.jsonl": "2"})
    before = of_data(folder)
    assert of_data(files(folder, {"b.jsonl": "changed"})) == before
    assert of_data(files(folder, {"README.md": CARD.format("results/*.csv") + "words"})) == before
    assert of_data(files(folder, {"results/a.csv": "changed"})) != before
    before = of_data(folder)
    assert (
        of_data(files(folder, {"README.md": CARD.format("[results/a.csv]")})) == before
    )  # the same file, the same split
    assert of_data(files(folder, {"README.md": CARD.format("results/*.csv").replace("train", "test")})) != before


@pytest.mark.parametrize("pattern", ["../x.jsonl", "/etc/hosts"])
def test_a_card_cannot_name_what_is_outside(tmp_path, pattern):
    with pytest.raises(UserError, match="outside"):
        of_data(files(tmp_path / "f", {"README.md": CARD.format(pattern)}))


MODEL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
         "chat_template.jinja", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
         "special_tokens_map.json", "vocab.json", "merges.txt", "additional_chat_templates/rag.jinja"]  # fmt: skip


@pytest.mark.parametrize("name", MODEL)
def test_a_models_own_files_count(tmp_path, name):
    folder = files(tmp_path, dict.fromkeys(MODEL, "1"))
    before = of_model(folder)
    assert of_model(files(folder, {name: "2"})) != before


@pytest.mark.parametrize("name", ["README.md", "modeling_x.py", "pytorch_model.bin", "outputs/x/model.safetensors"])
def test_a_models_other_files_do_not_count(tmp_path, name):
    folder = files(tmp_path, dict.fromkeys(MODEL, "1"))
    before = of_model(folder)
    assert of_model(files(folder, {name: "2"})) == before


def test_a_file_is_read_once(tmp_path, reads):
    path = files(tmp_path, {"a": "1"}) / "a"
    assert len({of_file(path) for _ in range(5)}) == 1
    assert reads == ["a"]


def test_a_change_of_the_same_size_is_seen_also_if_its_time_is_set_back(tmp_path, reads):
    path = old(files(tmp_path, {"a": "1"}) / "a")
    before, times = of_file(path), path.stat()
    path.write_text("2")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert of_file(path) != before
    assert reads == ["a", "a"]


def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(b"1" * content.LARGE)
    return path


def test_the_digest_of_a_large_file_is_kept_for_other_processes(tmp_path, reads, monkeypatch):
    path = large(tmp_path)
    monkeypatch.setattr(content, "SETTLED_S", 0.0)
    before = digest(path)
    monkeypatch.setattr(content, "_known", {})
    assert digest(path) == before
    assert reads == ["large"]
    path.write_bytes(b"2" * content.LARGE)
    monkeypatch.setattr(content, "_known", {})
    assert digest(path) != before


def test_that_of_a_file_just_changed_is_not(tmp_path, reads, monkeypatch):
    path = large(tmp_path)
    for _ in range(2):
        digest(path)
        monkeypatch.setattr(content, "_known", {})
    assert reads == ["large", "large"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"stamp": [1], "digest": "x"}', b"[" * 100_000])
def test_a_broken_cache_is_not_believed(tmp_path, reads, monkeypatch, text):
    path = large(tmp_path)
    monkeypatch.setattr(content, "SETTLED_S", 0.0)
    before = digest(path)
    (kept,) = (tmp_path / "cache/layerfit/digests").iterdir()
    assert json.loads(kept.read_text())["digest"] == before
    kept.write_bytes(text)
    monkeypatch.setattr(content, "_known", {})
    assert digest(path) == before
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, reads, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(content, "SETTLED_S", 0.0)
    assert digest(large(tmp_path))


def test_a_file_changed_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path, real = files(tmp_path, {"a": "1"}) / "a", content._read

    def reads_and_changes(path):
        found = real(path)
        path.write_text("22")
        return found

    monkeypatch.setattr(content, "_read", reads_and_changes)
    with pytest.raises(UserError, match="a was changed while it was read; start the same command again"):
        digest(path)


def test_a_pipe_and_a_folder_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "p")
    for path in (tmp_path / "p", tmp_path, tmp_path / "none"):
        with pytest.raises(UserError):
            of_file(path)


def test_memory_does_not_grow_with_the_file(tmp_path):
    import tracemalloc

    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    tracemalloc.start()
    digest(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20
