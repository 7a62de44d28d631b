"""The names of lm-eval's tasks, and its task manager restricted to the folders that a run needs.

lm-eval parses 14,000 files (7-20 s) to list its task names. Here the names are found by regular expression (a second),
and a manager is made over the folders that define the requested names. Only `task_manager` imports lm-eval.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfit.config.schema import EvalConfig, HubConfig
from layerfit.errors import UserError
from layerfit.evaluation.lm_eval.own_files import PACKAGE as PACKAGE
from layerfit.evaluation.lm_eval.own_files import check_folder, find_folder, task_files
from layerfit.files.shown import one_line

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

_KEY = re.compile(r"""^["']?(task|group|tag)["']?[ \t]*:[ \t]*(.*)$((?:\n[ \t]*-[ \t]+.*$)*)""", re.MULTILINE)
_NAME = re.compile(r"[\w.\-+/()]+")


def stock_folder() -> Path:
    """Return the folder of lm-eval's own tasks, without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None, "lm_eval is a dependency"
    assert spec.submodule_search_locations, "lm_eval is a package"
    return Path(spec.submodule_search_locations[0]) / "tasks"


def include_folder(config: EvalConfig) -> Path | None:
    """Return the folder of an evaluation's own task files.

    Raises:
        UserError: if it does not exist.
    """
    return None if config.include is None else find_folder(config.include)


def _names_in(text: str) -> set[str]:
    """Return the task, group and tag names that a file's text defines (a group's list of tasks is not a definition)."""
    names: set[str] = set()
    for key, value, items in _KEY.findall(text):
        value = value.split(" #")[0].strip()
        if key != "tag" and (not value or value[0] in "[{"):
            continue
        listed = re.findall(r"-[ \t]+(.*)", items) if not value else [value]
        names.update(name for item in listed for name in _NAME.findall(item.split(" #")[0]))
    return names


@lru_cache(maxsize=4)
def definitions(root: Path) -> dict[str, frozenset[str]]:
    """Return, for every task, group and tag name below `root`, the top-level entries of `root` that define it."""
    found: dict[str, set[str]] = {}
    for path in task_files(root):
        family = path.relative_to(root).parts[0]
        for name in _names_in(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, set()).add(family)
    return {name: frozenset(families) for name, families in found.items()}


def own_names(config: EvalConfig) -> frozenset[str]:
    """Return the names that the evaluation's own folder defines."""
    folder = include_folder(config)
    return frozenset(definitions(folder)) if folder else frozenset()


def check_tasks(config: EvalConfig) -> None:
    """Check the task names. lm-eval's own are read only if a name is not one of ours.

    Raises:
        UserError: if a task is unknown (with similar names), or listed twice.
    """
    names = [task.name for task in config.tasks]
    for name in names:
        if not _NAME.fullmatch(name) or ".." in name or name.startswith("/"):
            raise UserError(
                f"eval={config.name} has no task {one_line(name)!r}: that is no name; see eval.tasks in conf/eval"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"eval={config.name} lists {twice[0]} twice; give it one number of shots")
    own = own_names(config)
    for name in names:
        if name in own or name in (stock := definitions(stock_folder())):
            continue
        near = difflib.get_close_matches(name, [*own, *stock], n=4) or sorted(own)[:4]
        hint = f"similar: {', '.join(near)}" if near else "`python -m lm_eval ls tasks` lists them"
        raise UserError(f"eval={config.name} has no task {name!r}; {hint}")


def check(config: EvalConfig, hub: HubConfig) -> None:  # noqa: ARG001 - the signature of every protocol's check
    """Check an evaluation of lm-eval's tasks (`protocols.Protocol.check`). Its data is checked by its hub ids.

    The process that executes the run does not look at the user's folder again: it does not know what he has joined.
    """
    if config.include is not None:
        check_folder(config.include)
    check_tasks(config)


def children_of(entry: Any) -> list[str]:
    """Return the names that an index entry of lm-eval refers to: a group's list, a tag's tasks."""
    if entry.yaml_path is None:
        return sorted(entry.tags)
    tasks = (entry.cfg or {}).get("task")
    listed = tasks if isinstance(tasks, list) else []
    inline = [child.get("task", child.get("group")) if isinstance(child, dict) else child for child in listed]
    return [child for child in inline if isinstance(child, str)] + [n for child in listed for n in _nested(child)]


def _nested(child: Any) -> list[str]:
    inner = child.get("task") if isinstance(child, dict) else None
    return [name for name in inner if isinstance(name, str)] if isinstance(inner, list) else []


def _referred(include: list[Path], names: list[str]) -> set[str]:
    """Return all names that groups and tags of our own folder refer to, recursively."""
    from lm_eval.tasks._index import TaskIndex

    index = TaskIndex.build(include)
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        children = {child for name in waiting if name in index for child in children_of(index[name])}
        waiting = children - found
        found |= children
    return found


def _families(names: list[str]) -> list[str] | None:
    """Return the folders of lm-eval's tasks that define `names` and all names that they refer to.

    None if a tag is spread over folders: lm-eval merges it only when it indexes all folders as one.
    """
    if not names:  # all are our own: no need to read 14,000 files
        return []
    from lm_eval.tasks._index import Entry, Kind, TaskIndex

    root, defined = stock_folder(), definitions(stock_folder())
    families: set[str] = set()
    index: dict[str, Entry] = {}
    waiting, seen = list(names), set(names)
    while waiting:
        needed = {family for name in waiting for family in defined.get(name, ())} - families
        families |= needed
        index |= TaskIndex.build([root / family for family in sorted(needed)])
        referred = {child for name in seen if name in index for child in children_of(index[name])}
        waiting = sorted(referred - seen)
        seen |= referred
    spread = any(len(defined.get(name, ())) > 1 and index[name].kind is Kind.TAG for name in seen)
    return None if spread else sorted(families)


def folders_of(config: EvalConfig) -> list[Path]:
    """Return the folders of lm-eval's task files that an evaluation needs, to be indexed in this order.

    Reversed, because of two definitions the last wins here, but the first when all folders are indexed as one.
    """
    include = [folder] if (folder := include_folder(config)) else []
    names = [task.name for task in config.tasks]
    stock = _families(sorted({*names, *_referred(include, names)} - own_names(config)))
    return [stock_folder()] if stock is None else [stock_folder() / family for family in reversed(stock)]


def task_manager(config: EvalConfig) -> TaskManager:
    """Return lm-eval's task manager over the evaluation's own folder and the stock folders that its tasks need.

    Raises:
        UserError: if a task is unknown.
    """
    check_tasks(config)
    from lm_eval.tasks import TaskManager

    include = [folder] if (folder := include_folder(config)) else []
    folders = folders_of(config)
    if folders == [stock_folder()]:
        return TaskManager(include_path=list(include))
    return TaskManager(include_defaults=False, include_path=[*folders, *include])
