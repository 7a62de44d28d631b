"""Every library that layerfit imports is declared and pinned, and every declared one is imported."""

import ast
import re
import sys
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from layerfit.config import ROOT

MODULES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "hydra-core": "hydra",
    "lm-eval": "lm_eval",
    "markdown-it-py": "markdown_it",
}
"""Names of modules where they are not the project's own."""
NOT_IMPORTED = {"accelerate"}
"""Declared for others: lm-eval's Hugging Face model class imports accelerate."""
OPTIONAL = {"pynvml"}
"""Imported where it happens to be: a GPU's energy is null without it, with that reason."""
COMES_ALONG = {"tokenizers": "transformers", "markupsafe": "jinja2"}
"""Parts of a declared library that are packages of their own: module -> that library."""


def declared(*, extras: bool) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    more = [line for name in ("wandb", "slurm") for line in project["optional-dependencies"][name]]
    names = {re.split(r"[^\w-]", line)[0].lower() for line in project["dependencies"] + (more if extras else [])}
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imported() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "layerfit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return {name for name in found if name != "layerfit" and name not in sys.stdlib_module_names}


def test_what_is_imported_is_declared():
    known = declared(extras=True)
    assert {COMES_ALONG.get(name, name) for name in imported()} - known - OPTIONAL == set()


def test_what_is_declared_is_imported():
    assert declared(extras=False) - imported() - NOT_IMPORTED == set()


def test_what_is_declared_is_pinned():
    pinned = {re.split(r"[=\s]", line)[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", line)[0].lower() for line in project["dependencies"]}
    assert {name.replace("-", "_") for name in names} <= {name.replace("-", "_") for name in pinned}


def test_the_lock_is_complete():
    """It is installed without looking for dependencies. bitsandbytes is left out on purpose (Makefile)."""
    pinned = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
    known = {canonicalize_name(one.name): one.specifier for one in pinned}
    missing = []
    for name in known:
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            other = canonicalize_name(needed.name)
            if other == "bitsandbytes" or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            version = str(known.get(other, "")).removeprefix("==")
            if not version or not needed.specifier.contains(version, prereleases=True):
                missing.append(f"{name} needs {line}")
    assert missing == []
