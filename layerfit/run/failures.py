"""What has gone wrong, in one line: memory that is not there, a disk that is full. Saying so never fails itself."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

import torch

from layerfit.files.os_errors import os_error_line

NO_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc", "out of memory", "ALLOC_FAILED")
"""What RuntimeErrors of torch say of an allocation that failed: on the CPU, in C++, in CUDA's calls and libraries."""


def say(line: str, file: IO[str] | None = None) -> None:
    """Print a line on stderr (or a file), if it can be printed: a full disk under the log must not cost a run."""
    with suppress(OSError, ValueError):
        print(line, file=file or sys.stderr, flush=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    now: BaseException | None = error
    while now is not None:
        yield now
        now = now.__cause__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was not there, on a GPU or on the CPU."""
    for one in _chain(error):
        if isinstance(one, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(one, OSError) and one.errno == errno.ENOMEM:
            return True
        if isinstance(one, RuntimeError) and any(said in str(one) for said in NO_MEMORY):
            return True
    return False


def describe_error(error: BaseException) -> str:
    """Return what an error says: what the system refused, with the fix; else its class and first line."""
    first = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, OSError) and error.errno is not None:
        return os_error_line(error)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
