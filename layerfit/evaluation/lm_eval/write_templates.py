"""Write the templates of task files once, without data, in a process that may be lost: `own_files` starts it.

Standard input: a JSON list of files. Standard output: a JSON line for each template begun; the last one has `wrong` if
it fails. A template that needs data is written with nothing in its place.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import yaml


class _Loader(yaml.SafeLoader):
    """Reads a task file without the functions that it names."""


_Loader.add_multi_constructor("!", lambda *_: None)


def templates(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every template in a task file with its key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from templates(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from templates(item, f"{key}[{number}]")
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        yield key, value


def write(template: str) -> str | None:
    """Return what is wrong with a template, None if it ends. lm-eval's own settings, but nothing is missing."""
    environment = jinja2.Environment(undefined=jinja2.ChainableUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = lambda text, pattern, repl, count=0: re.sub(pattern, repl, text, count=count)
    try:
        for _ in environment.from_string(template).generate():
            pass
    except jinja2.TemplateSyntaxError as error:
        return f"is not a template: {error.message}, line {error.lineno}"
    except (MemoryError, RecursionError, OverflowError) as error:
        return f"cannot be written: {type(error).__name__}"
    except Exception:  # it needs data
        return None
    return None


def is_fine(path: str) -> bool:
    """Write the templates of a file; say what is wrong with the first that fails, and return whether none does."""
    say(path, "the file")
    try:
        read = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return say(path, "the file", f"is not YAML: {' '.join(str(error).split())[:200]}")
    return all(
        say(path, key) and ((wrong := write(text)) is None or say(path, key, wrong))
        for key, text in templates(read, "")
    )


def say(path: str, key: str, wrong: str | None = None) -> bool:
    """Print where this process is, at once; return whether it goes on."""
    print(json.dumps({"file": path, "key": key, "wrong": wrong}), flush=True)
    return wrong is None


def main(seconds: int, memory: int) -> int:
    """Look at the files of standard input within a limit of CPU seconds and bytes; return 0 if all are fine, else 1."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return 0 if all(is_fine(path) for path in json.load(sys.stdin)) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
