"""The guides, followed to the letter in a copy of the checkout: every file written, every command run.

A block whose first line names a file (```` ```yaml conf/table/toy.yaml ````) is written, a `diff` is applied, a `sh`
block is run; other blocks are for the reader.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs").glob("add_a_*.md"))
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.slow


def blocks(guide: Path) -> list[tuple[str, str | None, str]]:
    """Language, file and text of every block, in order."""
    return [(language, name or None, text) for language, name, text in BLOCK.findall(guide.read_text())]


@pytest.fixture
def checkout(tmp_path):
    """A clean clone with the files as they are now, and this environment."""
    copy = tmp_path / "layerfit"
    subprocess.run(["git", "clone", "--quiet", "--no-local", "--depth", "1", f"file://{ROOT}", str(copy)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--modified", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    commit(copy, "as it is now")
    (copy / ".venv").symlink_to(Path(sys.prefix), target_is_directory=True)
    for name in ("requirements.lock", "pyproject.toml"):  # older than the environment: make must not install again
        os.utime(copy / name, (0, 0))
    return copy


def commit(checkout: Path, message: str) -> None:
    who = ("-c", "user.name=a reader", "-c", "user.email=reader@example.org")
    subprocess.run(["git", *who, "add", "--all"], cwd=checkout, check=True)
    subprocess.run(["git", *who, "commit", "--quiet", "--allow-empty", "-m", message], cwd=checkout, check=True)


def follow(guide: Path, checkout: Path) -> int:
    """Do what a guide says; return how many files it wrote or changed before its first command."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
        **{f"GIT_{who}_{what}": "reader" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    changed = set()
    for language, name, text in blocks(guide):
        if name is not None:
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_text(text)
            changed.add(name)
        elif language == "diff":
            subprocess.run(["git", "apply", "--unidiff-zero", "-"], cwd=checkout, input=text, text=True, check=True)
            changed |= set(re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE))
        elif language == "sh":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=checkout,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout[-4000:]}"
    return len(changed)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_works_as_it_is_written(guide, checkout):
    assert follow(guide, checkout) <= 5
