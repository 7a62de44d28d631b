"""The house keeps its shape: no circles, few levels, small files and functions, methods named in one room."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from layerfit.methods import METHODS

PACKAGE = Path(__file__).resolve().parents[1] / "layerfit"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
Graph = dict[str, set[str]]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(path: Path, modules: set[str]) -> set[str]:
    """Modules of ours that a file imports, at its top or inside a function; for type checkers alone does not count."""
    tree, found = ast.parse(path.read_text()), set()
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("layerfit"):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("layerfit.")}
    return found & modules - {module_of(path), "layerfit"}


def graph_of_files() -> Graph:
    modules = {module_of(path) for path in FILES}
    return {module_of(path): imported(path, modules) for path in FILES}


def graph_of_rooms() -> Graph:
    """A loose file of `layerfit/` is a room of its own."""
    out: Graph = {}
    for module, found in graph_of_files().items():
        out.setdefault(room_of(module), set()).update({room_of(other) for other in found} - {room_of(module)})
    return out


def circle(graph: Graph) -> list[str]:
    """A path that ends where it began; [] if there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        found = next((found for other in sorted(graph[node]) if (found := visit(other, [*path, node]))), [])
        done.add(node)
        return found

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def height(graph: Graph) -> int:
    @cache
    def level(node: str) -> int:
        return 1 + max(map(level, graph[node]), default=0)

    return max(map(level, graph))


def test_circles_and_heights_are_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert height({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == 3


def test_no_file_imports_itself_by_way_of_others():
    assert circle(graph_of_files()) == []


def test_no_room_imports_itself_by_way_of_others():
    assert circle(graph_of_rooms()) == []


def test_there_are_at_most_twelve_levels_of_rooms():
    assert height(graph_of_rooms()) <= 12


def test_few_files_lie_outside_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 5


def test_tests_mirror_the_rooms():
    here = Path(__file__).parent
    folders = {path.name for path in here.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"faults", "golden", "gpu", "helpers"} <= ROOMS
    assert {path.name for path in here.glob("*.py")} <= {"__init__.py", "conftest.py", *LOOSE_TESTS}


LOOSE_TESTS = ("test_structure.py", "test_docs.py", "test_guides.py", "test_size.py")
"""Tests of the whole."""


def named_types(tree: ast.Module) -> list[str]:
    """Return the classes of a file, and the aliases of types at its top (`Row = dict[str, Any]`)."""
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    return classes + [t.id for t in targets if isinstance(t, ast.Name) and re.fullmatch(r"[A-Z][a-z]+\w*", t.id)]


def test_types_of_two_files_have_two_names():
    assert named_types(ast.parse("class A:\n    class B: ...\nRow = dict\nROWS = 1")) == ["A", "B", "Row"]
    found = Counter(name for path in FILES for name in named_types(ast.parse(path.read_text())))
    assert {name: count for name, count in found.items() if count > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


def test_no_method_is_named_outside_its_room():
    """In code, that is: comments and docstrings may speak of methods."""
    names = {*METHODS, *(cls.__name__ for cls in METHODS.values())} - {"full", "vanilla", "parallel"}  # English too
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] in ("methods", "optimizers"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            words = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            words += [node.id] if isinstance(node, ast.Name) else []
            assert not names.intersection(words), f"{path}:{node.lineno}"


def test_a_path_of_the_users_is_expanded_in_one_place():
    """Two places would make two folders of one name: the check would look at one, the run would write the other."""
    named = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("expanduser", "expandvars")
    }
    assert named == {"files/paths.py"}
