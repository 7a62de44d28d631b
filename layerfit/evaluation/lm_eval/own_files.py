"""Task files from a user's folder (`eval.include`): where they may lie, what may be in them, templates that end.

A task file can name Python functions (`!function`), which run with the user's rights. So only folders are read that the
user has joined himself: layerfit's own, the working directory, those of --conf.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from layerfit.config.folders import conf_folders
from layerfit.errors import UserError
from layerfit.files.paths import expand, inside
from layerfit.files.shown import one_line

PACKAGE = Path(__file__).resolve().parents[2]
MOST_FILES, MOST_BYTES = 20_000, 2**20
"""Entries of a folder, and size of one task file."""
SECONDS, MEMORY = 10, 2**30
"""For writing every template of a folder once, without data. One takes about a millisecond."""
_SKIPPED = ("__pycache__", ".ipynb_checkpoints")
_REFERENCE = re.compile(
    r"^[ \t\"']*include[\"']?[ \t]*:[ \t]*[\"']?([^\s\"'#]+)|!function[ \t]+[\"']?([^\s\"'#]+)", re.MULTILINE
)


def find_folder(include: str) -> Path:
    """Return the folder of `eval.include`: relative to the package, else to the working directory.

    Raises:
        UserError: if there is none.
    """
    folder = expand("eval.include", include)
    if (ours := PACKAGE / folder).is_dir() and ours.resolve().is_relative_to(PACKAGE):
        return ours
    if folder.is_dir():
        return folder.absolute()
    raise UserError(
        f"eval.include={one_line(include)} is not a folder, neither of the package {PACKAGE} nor here; see conf/eval"
    )


def task_files(root: Path) -> Iterator[Path]:
    """Yield the files below a folder that lm-eval may read as task files, without those of hidden folders.

    Raises:
        UserError: if there are too many files to be a folder of tasks.
    """
    count = 0
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _SKIPPED]
        if (count := count + len(folders) + len(files)) > MOST_FILES:
            raise UserError(f"{root} has more than {MOST_FILES} files; give the folder of the task files alone")
        # A template without a suffix can hold a tag.
        yield from (Path(folder, name) for name in files if Path(name).suffix in ("", ".yaml"))


def check_folder(include: str) -> None:
    """Check the folder of `eval.include` and every task file in it, before anything of it is read or run.

    Raises:
        UserError: if it lies elsewhere, or a file is no regular one, leads elsewhere, or has a template without an end.
    """
    folder = find_folder(include)
    roots = [PACKAGE, Path.cwd(), *conf_folders()]
    if not any(folder.resolve().is_relative_to(root.resolve()) for root in roots):
        raise UserError(
            f"eval.include={one_line(include)} is outside the package, the working directory and --conf folders; "
            "task files can run code: copy them here, or join their folder with --conf DIR"
        )
    if folder.resolve().is_relative_to(PACKAGE):
        return
    files = list(task_files(folder))
    for path in files:
        _check_file(folder, path)
    _check_templates(folder, files)


def _check_file(folder: Path, path: Path) -> None:
    where = f"eval.include={folder}"
    inside(folder, str(path.relative_to(folder)), where)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{where}: {one_line(str(path.name))} is not a regular file; remove it")
    if found.st_size > MOST_BYTES:
        raise UserError(f"{where}: {path.name} has {found.st_size} bytes, more than {MOST_BYTES}; keep data elsewhere")
    for included, function in _REFERENCE.findall(path.read_text(encoding="utf-8", errors="replace")):
        name = included or function.rpartition(".")[0].replace(".", "/")
        inside(folder, os.path.relpath(path.parent / name, folder), f"{path}")


def _check_templates(folder: Path, files: list[Path]) -> None:
    """Write every template once in a process with little memory and time; raise UserError naming one that fails."""
    if not files:
        return
    command = [sys.executable, "-m", "layerfit.evaluation.lm_eval.write_templates"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path])}
    try:
        done = subprocess.run(
            [*command, str(SECONDS), str(MEMORY)],
            input=json.dumps([str(path) for path in files]),
            capture_output=True,
            text=True,
            check=False,
            timeout=3 * SECONDS,
            env=environment,
        )
        said, over = done.stdout, done.returncode != 0
    except subprocess.TimeoutExpired as late:
        said, over = (late.stdout or b"").decode(errors="replace") if isinstance(late.stdout, bytes) else "", True
    last = json.loads(said.splitlines()[-1]) if said.splitlines() else {"file": str(folder), "key": "a file"}
    wrong = last.get("wrong") or (f"did not end within {SECONDS} s and {MEMORY // 2**20} MiB" if over else None)
    if wrong is not None:
        raise UserError(
            f"{one_line(last['file'])}: {one_line(last['key'])} {one_line(wrong)}; mend it, or leave it out"
        )
