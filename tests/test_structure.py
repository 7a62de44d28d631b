"""The house keeps its shape: imports point down, files and functions stay small, methods are named in one room."""

import ast
from pathlib import Path

import pytest

from layerfit.methods import METHODS

PACKAGE = Path(__file__).resolve().parent.parent / "layerfit"
FLOORS = [
    {"errors", "interrupt"},
    {"importance", "optimizers", "place", "schema_judge", "schema_launcher"},
    {"methods", "anatomy", "schema_model"},
    {"schema", "record", "trainable", "architecture"},
    {"config", "manifest", "receipt", "schedule", "track", "world"},
    {"hub", "data", "evaluation", "preflight"},
    {"engines"},
    {"loop", "checkpoint", "loading", "norms"},
    {"measure"},
    {"execution"},
    {"worker"},
    {"preload", "launch", "display"},
    {"sweep"},
    {"cluster"},
    {"report", "cli", "prefetch"},
    {"__main__"},
]
"""From the ground up: a module may import its own floor and below. Imports for type checkers alone do not count."""
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def imported(tree: ast.Module) -> set[str]:
    """Modules of ours that a file imports, at its top or inside a function."""
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("layerfit"):
            names = [f"layerfit.{alias.name}" for alias in node.names] if node.module == "layerfit" else [node.module]
            found.update(names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("layerfit."))
    return {module for module in found if room(module)}


def test_every_module_has_a_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name == "__init__":
        return
    # Methods choose an optimizer and are chosen from by `cli`; nothing imports upward.
    upward = {m for m in imported(ast.parse(path.read_text())) if floor(room(m)) > floor(name)}
    assert upward == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


def test_no_method_is_named_outside_its_room():
    """In code, that is: comments and docstrings may speak of methods."""
    names = {*METHODS, *(cls.__name__ for cls in METHODS.values())} - {"full", "vanilla", "parallel"}  # English too
    for path in FILES:
        if path.is_relative_to(PACKAGE / "methods") or path.is_relative_to(PACKAGE / "optimizers"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            words = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            words += [node.id] if isinstance(node, ast.Name) else []
            assert not names.intersection(words), f"{path}:{node.lineno}"
