"""The folders of configuration files: layerfit's own, and those that a user adds (--conf)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from layerfit.errors import UserError
from layerfit.files.paths import expand
from layerfit.installation import checkout, conf_folder

CONF = conf_folder()
_NAME = re.compile(r"[\w.\-]{1,200}")
_joined: ContextVar[tuple[Path, ...]] = ContextVar("joined", default=())


def conf_folders() -> tuple[Path, ...]:
    """Return the folders that are searched, in order: layerfit's own, then the user's."""
    return (CONF, *_joined.get())


@contextmanager
def joined(own: Iterable[str]) -> Iterator[None]:
    """Also search the user's folders, each with groups (`method/`, `dataset/`, `table/`, ...) as subfolders.

    Raises:
        UserError: if one is not a folder, or has a file of the same name as one of layerfit's.
    """
    paths = tuple(expand("--conf", one).resolve() for one in own)
    for path in paths:
        if not path.is_dir():
            raise UserError(f"--conf {path} is not a folder; give one that holds groups: {path}/dataset/NAME.yaml")
        _check_names(path)
    token = _joined.set((*_joined.get(), *(path for path in paths if path not in conf_folders())))
    try:
        yield
    finally:
        _joined.reset(token)


def _check_names(own: Path) -> None:
    """Raise UserError if a file shares its name with one of layerfit's but differs: only one of them would be read."""
    for path in sorted(own.glob("*/**/*.yaml")):
        name = path.relative_to(own)
        known = CONF / name
        if name.parts[0] != "tuned" and known.is_file() and known.read_bytes() != path.read_bytes():
            raise UserError(f"{path}: layerfit already has {name.with_suffix('')}, with other content; rename yours")


def find(group: str, name: str, only: Path | None = None, *, own_first: bool = False) -> Path | None:
    """Return the file of a choice of a group, None if there is none.

    only: search this folder alone. own_first: the user's file takes precedence over layerfit's of the same name.
    """
    if not _NAME.fullmatch(name):  # a path, or no name at all
        return None
    order = conf_folders() if only is None else (only,)
    paths = (folder / group / f"{name}.yaml" for folder in (reversed(order) if own_first else order))
    return next((path for path in paths if path.is_file()), None)


def settings(group: str, name: str) -> dict[str, Any] | None:
    """Return what layerfit's own file of a choice says, None where the choice is not layerfit's."""
    known = {path.stem: path for path in (CONF / group).glob("*.yaml")}
    return _read(known[name]) if name in known else None


@lru_cache(maxsize=64)
def _read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def place_for_tuned() -> Path:
    """Return the folder whose `tuned/` receives tuned values: the user's if one is added, else the checkout's.

    Raises:
        UserError: if there is neither: an installed package is not written to.
    """
    if _joined.get():
        return _joined.get()[-1]
    if checkout() is None:
        raise UserError("layerfit is installed without a checkout; name a folder for the tuned values: --conf DIR")
    return CONF
