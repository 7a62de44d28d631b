"""A data set's README: its front matter, and which files it says hold which split. It is a stranger's text."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from layerfit.errors import UserError
from layerfit.files.paths import inside
from layerfit.files.text_files import read_text

_SPLIT = "split"


class Subset(NamedTuple):
    """One of a README's `configs`. patterns: of each split's files; None = those of `folder` by their names."""

    name: str
    default: bool
    patterns: dict[str, list[str]] | None
    folder: str


def read_readme(folder: Path) -> tuple[dict[str, Any], str]:
    """Return a README's YAML front matter ({} without one) and its text.

    Raises:
        UserError: if it cannot be read, or its front matter is not a YAML mapping.
    """
    readme = folder / "README.md"
    if not readme.is_file():
        return {}, ""
    text = read_text(readme).replace("\r\n", "\n")
    match = re.match(r"---\n(.*?)\n---\n?(.*)", text, flags=re.DOTALL)
    if match is None:
        return {}, text
    try:
        found = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 2}" if mark is not None else ""
        said = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
        raise UserError(f"{readme}{line}: its front matter is not YAML: {said}; mend it, or remove it") from error
    if not isinstance(found or {}, dict):
        raise _malformed(readme, "its front matter", "a mapping", found)
    return found or {}, match[2]


def subsets_of(folder: Path) -> list[Subset]:
    """Return the subsets whose files a README names, [] without one.

    Raises:
        UserError: naming the README and what in it cannot be read, or points outside the folder.
    """
    readme = folder / "README.md"
    configs = read_readme(folder)[0].get("configs") or []
    if not isinstance(configs, list):
        raise _malformed(readme, "configs", "a list", configs)
    found = [_subset(one, readme) for one in configs]
    return [subset for subset in found if subset.patterns is not None or subset.folder != "."]


def _subset(one: Any, readme: Path) -> Subset:
    if not isinstance(one, dict):
        raise _malformed(readme, "an entry of configs", "a mapping", one)
    name, folder, files = one.get("config_name", "default"), one.get("data_dir", "."), one.get("data_files")
    for key, value in (("config_name", name), ("data_dir", folder)):
        if not isinstance(value, str) or not value:
            raise _malformed(readme, key, "text", value)
    inside(readme.parent, folder, f"{readme}: data_dir")
    return Subset(name, one.get("default") is True, None if files is None else _splits(files, readme, folder), folder)


def _splits(files: Any, readme: Path, folder: str) -> dict[str, list[str]]:
    """Return the patterns of every split: a pattern, a list of patterns, `{split: patterns}`, or entries with both."""
    if isinstance(files, dict):
        named = dict(files) if "path" not in files else {files.get(_SPLIT, "train"): files["path"]}
    elif isinstance(files, list) and files and all(isinstance(entry, dict) for entry in files):
        named = {}
        for entry in files:
            if "path" not in entry or entry.get(_SPLIT, "train") in named:
                raise _malformed(readme, "an entry of data_files", "a split, once, with a path", entry)
            named[entry.get(_SPLIT, "train")] = entry["path"]
    else:
        named = {"train": files}
    out = {}
    for split, given in named.items():
        patterns = given if isinstance(given, list) else [given]
        if not isinstance(split, str) or not patterns or not all(isinstance(p, str) and p for p in patterns):
            raise _malformed(readme, "data_files", "patterns of file names for every split", {split: given})
        out[split] = [_contained(pattern, readme, folder) for pattern in patterns]
    return out


def _contained(pattern: str, readme: Path, folder: str) -> str:
    """Return a pattern relative to the README; its last part may be a link, as in the cache of the hub's files."""
    path = PurePosixPath(folder) / pattern
    above = path if path.name in ("", "..") else path.parent
    inside(readme.parent, str(above), f"{readme}: data_files")
    return str(path)


def _malformed(readme: Path, key: str, wanted: str, value: object) -> UserError:
    return UserError(f"{readme}: {key} must be {wanted}; it is {str(value)[:60]!r}; mend or remove it")


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the paths inside a README's folder that match its pattern.

    Raises:
        UserError: if it is no pattern.
    """
    try:
        return sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError, OSError) as error:
        raise UserError(
            f"{folder / 'README.md'}: data_files: {pattern!r} is no pattern of file names: {error}"
        ) from error
