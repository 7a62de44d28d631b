"""The data of lm-eval's tasks (hub id, subset, split) from their task files, so that any task can be prefetched.

Only for `layerfit.prefetch`: it imports lm-eval's index of task files (a second, no torch).
"""

from __future__ import annotations

from typing import Any

from layerfit.config.schema import EvalConfig, HubConfig, TaskConfig
from layerfit.data.sources import Part
from layerfit.evaluation.lm_eval.tasks import check, children_of, folders_of, include_folder, own_names


def data(config: EvalConfig) -> list[Part]:
    """Return the parts of data sets that an evaluation's tasks read, each once, in the order of the tasks.

    A part without a repository: its task reads files by URL, or generates its data.

    Raises:
        UserError: if a task is unknown.
    """
    check(config, HubConfig())
    from lm_eval.tasks._index import TaskIndex

    folder, own = include_folder(config), own_names(config)
    # The last definition of a name wins: our own.
    index = TaskIndex.build([*folders_of(config), *([folder] if folder else [])])
    parts: dict[Part, None] = {}
    for task in config.tasks:
        leaves = _leaves(index, task.name)
        found = [part for leaf in leaves for part in _parts(task, index[leaf].cfg, leaf in own)]
        parts |= dict.fromkeys(found if leaves else [Part(task.name, None)])
    return list(parts)


def _leaves(index: dict[str, Any], name: str) -> list[str]:
    """Return the tasks of a group or a tag, recursively; a task itself. Names outside the index are left out."""
    if name not in index:
        return []
    if children := children_of(index[name]):
        return [leaf for child in dict.fromkeys(children) for leaf in _leaves(index, child)]
    return [name] if index[name].cfg else []


def _parts(asked: TaskConfig, task: dict[str, Any], is_own: bool) -> list[Part]:
    """Return the data of a task. task: its lm-eval configuration. is_own: its file is layerfit's."""
    repo, subset = task.get("dataset_path"), task.get("dataset_name")
    if repo is None and is_own:  # a task of the embedded world, whose items are generated
        return []
    if not isinstance(repo, str) or "/" not in repo:
        return [Part(asked.name, None)]
    splits = [task.get("test_split") or task.get("validation_split")]
    if asked.num_fewshot and task.get("num_fewshot") != 0:
        splits.append(task.get("fewshot_split") or task.get("training_split") or task.get("validation_split"))
    return [Part(asked.name, repo, subset, split) for split in dict.fromkeys(splits)]
