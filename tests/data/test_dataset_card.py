"""A data set's README says which files hold which split, in any of the hub's ways; a mistake names the README."""

import pytest

from layerfit.errors import UserError
from layerfit.files.dataset_folder import data_files

READ = {
    "a pattern": ("data_files: part*.jsonl", {"train": ["part1.jsonl", "part2.jsonl"]}),
    "a list of patterns": ('data_files: ["part1*", part2.jsonl]', {"train": ["part1.jsonl", "part2.jsonl"]}),
    "splits": ("data_files: [{split: dev, path: part1*}, {split: train, path: [part2*]}]", None),
    "a mapping": ("data_files: {train: part2.jsonl, dev: [part1.jsonl]}", None),
    "a folder": ("data_dir: sub", {"train": ["sub/train.jsonl"]}),
    "a folder and a pattern": ("{data_dir: sub, data_files: '*.jsonl'}", {"train": ["sub/train.jsonl"]}),
    "everything": ("data_files: 'part*'", {"train": ["part1.jsonl", "part2.jsonl"]}),
}


@pytest.fixture
def folder(tmp_path):
    for name in ("part1.jsonl", "part2.jsonl", "sub/train.jsonl", "part.txt"):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "set" / name).write_text('{"text": "a"}\n')
    (tmp_path / "outside.jsonl").write_text('{"text": "secret"}\n')
    return tmp_path / "set"


def write(folder, config):
    text = config if config.startswith("{") else f"{{{config}}}"
    (folder / "README.md").write_text(f"---\nconfigs:\n- {text}\n---\n# x\n")


@pytest.mark.parametrize("case", READ)
def test_every_way_to_name_files_is_read(folder, case):
    config, expected = READ[case]
    write(folder, config)
    found = {split: [str(p.relative_to(folder)) for p in paths] for split, paths in data_files(folder).items()}
    assert found == (expected or {"train": ["part2.jsonl"], "dev": ["part1.jsonl"]})


MALFORMED = {
    "no YAML": ("title: notes: a set", r"README.md:2: its front matter is not YAML: mapping values"),
    "a list": ("[1, 2]", "its front matter must be a mapping"),
    "text": ("hello", "its front matter must be a mapping"),
    "a date that is none": ("a: 2020-13-45", "README.md.* is not YAML"),
    "another language's object": ("a: !!python/object:os.system {}", "is not YAML: could not determine"),
    "configs a number": ("configs: 5", "configs must be a list; it is '5'"),
    "a config that is a word": ("configs: [x]", "an entry of configs must be a mapping"),
    "a name that is a list": ("configs: [{config_name: [1], data_files: a}]", "config_name must be text"),
    "files a number": ("configs: [{data_files: 5}]", "data_files must be patterns of file names"),
    "files with a number": ("configs: [{data_files: [a, 5]}]", "data_files must be patterns of file names"),
    "no files": ("configs: [{data_files: []}]", "data_files must be patterns of file names"),
    "an entry without a path": ("configs: [{data_files: [{split: train}]}]", "must be a split, once, with a path"),
    "a split twice": (
        "configs: [{data_files: [{split: a, path: x}, {split: a, path: y}]}]",
        "must be a split, once, with a path",
    ),
    "an absolute path": ("configs: [{data_files: /etc/*}]", r"README.md: data_files names '/etc', which is outside"),
    "above": ("configs: [{data_files: ../outside.jsonl}]", r"README.md: data_files names '..', which is outside"),
    "above, in the middle": ("configs: [{data_files: sub/../../*.jsonl}]", "which is outside"),
    "above, behind a pattern": ("configs: [{data_files: '*/../../*.jsonl'}]", "which is outside"),
    "nothing but above": ("configs: [{data_files: ..}]", "which is outside"),
    "a folder above": ("configs: [{data_dir: ..}]", "README.md: data_dir names '..', which is outside"),
    "above from a folder": ("configs: [{data_dir: sub, data_files: ../../outside.jsonl}]", "which is outside"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_card_is_one_line_that_names_it(folder, case):
    front, expected = MALFORMED[case]
    (folder / "README.md").write_text(f"---\n{front}\n---\n")
    with pytest.raises(UserError, match=expected) as error:
        data_files(folder)
    assert "\n" not in str(error.value)
    assert "README.md" in str(error.value)


def test_a_card_that_is_not_utf8_is_named_with_its_line(folder):
    (folder / "README.md").write_bytes(b"---\na: b\n---\nCaf\xe9\n")
    with pytest.raises(UserError, match=r"README.md:4: it is not UTF-8 text"):
        data_files(folder)


def test_files_may_be_links_as_in_the_cache_of_the_hub(folder):
    (folder / "part1.jsonl").unlink()
    (folder / "part1.jsonl").symlink_to(folder.parent / "outside.jsonl")
    write(folder, "data_files: part1.jsonl")
    assert data_files(folder) == {"train": [folder / "part1.jsonl"]}


def test_a_subset_is_inside_the_folder(folder):
    for subset in ("..", "/etc", "sub/../.."):
        with pytest.raises(UserError, match=r"dataset\.subset names .* outside"):
            data_files(folder, subset)
