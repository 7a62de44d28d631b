"""A file is written whole or not at all, and what killed writers leave is cleared away: that, and nothing else."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerfit.files import writing
from layerfit.files.os_errors import os_error_line
from layerfit.files.writing import clear_temporaries, write_atomically

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, sys
from pathlib import Path
from layerfit.files import writing
os.fsync = lambda _: print("writing", flush=True) or __import__("time").sleep(60)
writing.write_atomically(Path(sys.argv[1]), b"half")
"""


@pytest.fixture
def left(tmp_path):
    """A folder in which a process writes; kills it and returns its temporary file."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "results" / "a.json")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    (found,) = (tmp_path / "results").iterdir()
    assert clear_temporaries(found.parent) == []  # its writer lives
    assert found.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return found


def test_what_a_killed_writer_left_is_cleared_away(left):
    assert clear_temporaries(left.parent) == [left]
    assert list(left.parent.iterdir()) == []


def test_look_alikes_stay(left):
    """Whatever is not in every part a temporary file of a writer that is gone, however old."""
    folder, name = left.parent, left.name
    machine, number = name.split(".")[-3].split("-")
    beside = [name[1:], f"{name}.json", name.removesuffix(".part"), ".part", ".a.json.writing", "a.json", ".a.swp"]
    beside += [name.replace(machine, machine.upper()), name.replace(f"-{number}", "-0"), name.replace(machine, "x" * 8)]
    beside += ["checkpoint.writing", f"..{machine}-{number}.abcdefgh.part"]
    for other in beside:
        (folder / other).write_text("mine")
        os.utime(folder / other, (0, 0))
    (folder / name.replace("a.json", "folder.json")).mkdir()
    (folder / name.replace("a.json", "link.json")).symlink_to(folder / "a.json")
    below = folder / "below"
    below.mkdir()
    (below / name).write_text("another folder's")
    kept = {path: path.lstat().st_mode for path in folder.rglob("*") if path != left}
    assert clear_temporaries(folder) == [left]
    assert {path: path.lstat().st_mode for path in folder.rglob("*")} == kept


def test_where_the_writer_cannot_be_known_a_day_must_pass(tmp_path):
    others = tmp_path / ".a.json.0123abcd-4999999.abcdefgh.part"  # here nobody has that number
    taken = tmp_path / f".a.json.{writing._machine()}-{os.getpid()}.abcdefgh.part"
    for path in (others, taken):
        path.write_text("half")
    assert clear_temporaries(tmp_path) == []
    for path in (others, taken):
        os.utime(path, (time.time() - 90000,) * 2)
    assert sorted(clear_temporaries(tmp_path)) == sorted([others, taken])


def test_a_runs_own_are_cleared_under_its_lock_alone(tmp_path):
    (tmp_path / "checkpoint.writing").write_text("half")
    (tmp_path / ".model.writing").mkdir()
    (tmp_path / ".model.writing" / "model.safetensors").write_text("half")
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("mine")
    (tmp_path / ".adapter.writing").symlink_to(tmp_path / "elsewhere")
    assert clear_temporaries(tmp_path) == []
    assert len(clear_temporaries(tmp_path, locked=True)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".adapter.writing", "elsewhere", "model"]
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_a_folder_that_is_not_there_has_none(tmp_path):
    assert clear_temporaries(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    assert clear_temporaries(tmp_path / "file") == []


def test_what_cannot_be_written_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b"before")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space") as found:
            write_atomically(path, b"after")
    assert os_error_line(found.value).startswith(f"{path}: the disk is full (ENOSPC); free some space")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("a.json", b"before")]
    with pytest.raises(OSError, match=r"a\.json") as found:
        write_atomically(path / "b.json", b"")
    assert os_error_line(found.value).startswith(f"{path / 'b.json'}: a file stands where a folder should be")


def test_a_long_name_has_a_temporary_one(tmp_path):
    write_atomically(tmp_path / ("ö" * 125), b"x")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"x"]


def test_what_has_no_words_is_said_as_the_system_says_it():
    assert os_error_line(OSError(errno.EXDEV, "Invalid cross-device link", "a")) == "a: Invalid cross-device link"
    assert os_error_line(OSError("a\nb")) == "a b"
    assert os_error_line(TimeoutError()) == "TimeoutError"
