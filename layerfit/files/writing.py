"""Writing a file so that no reader ever sees part of it, and clearing away what killed writers have left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from functools import cache
from pathlib import Path

_END = ".part"
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-([1-9][0-9]*)\.[a-z0-9_]{8}\.part")
"""`.NAME.MACHINE-PID.XXXXXXXX.part`: whose file it is can be asked of the machine that knows the process."""
_OWN_FILES, _OWN_FOLDERS = ("checkpoint.writing",), (".model.writing", ".adapter.writing")
"""What a run writes under a temporary name of its own, in its folder, under the folder's lock."""
_DAY_S = 86400.0


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole: temporary name, flush to disk, rename. It gets the permissions of the user's umask.

    Raises:
        OSError: if it cannot be written; its `filename` is `path`. What was there before is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name[:40]}.{_machine()}-{os.getpid()}."
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=_END)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = (
                str(path),
                None,
            )  # a write that fails has no name, the rest a temporary one
        raise


def clear_temporaries(folder: Path, *, locked: bool = False) -> list[Path]:
    """Remove the temporary files of writers that are gone from a folder; return what was removed.

    Only regular files of the pattern that `write_atomically` gives, whose writer was a process of this machine that is
    no longer there, or, where that cannot be known (another machine's, a number that another process has now), that
    are older than a day. What cannot be removed is left: it is in nobody's way.

    Args:
        folder: whose own files are looked at; it need not exist.
        locked: it is a run's folder and this process holds its lock, so nobody writes a checkpoint or weights.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if _is_left(entry) or (locked and entry.name in _OWN_FILES and entry.is_file(follow_symlinks=False)):
                    Path(entry.path).unlink()
                elif locked and entry.name in _OWN_FOLDERS and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    continue
                removed.append(Path(entry.path))
    return removed


def _is_left(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a temporary file that nobody will ever rename."""
    found = _TEMPORARY.fullmatch(entry.name)
    if found is None or not stat.S_ISREG((status := entry.stat(follow_symlinks=False)).st_mode):
        return False
    gone = found[1] == _machine() and not _is_alive(int(found[2]))
    return gone or time.time() - status.st_mtime > _DAY_S


def _is_alive(process: int) -> bool:
    """Return whether a process is there, anybody's. Signal 0 reaches nobody."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@cache
def _machine() -> str:
    """Return 8 hex digits that name where a process's number means something: this boot, and this container of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        numbers = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # not Linux: nobody's number is known here, the files wait for their day
        boot, numbers = socket.gethostname(), str(os.getpid())
    return hashlib.sha256(f"{boot} {numbers}".encode()).hexdigest()[:8]


def _umask() -> int:
    """Return the umask. It can only be read by setting it, which other threads would see; Linux shows it as well."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("Umask:")), None)
        if line is not None:
            return int(line.split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
