"""A checkout stays small: it is copied to every machine that trains."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST = 22_000_000
"""Bytes of all committed files."""


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="no checkout, or no git")
def test_a_checkout_is_at_most_22_megabytes():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if (ROOT / name).is_file()}
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    assert len(sizes) > 1000
    assert sum(sizes.values()) <= MOST, f"{sum(sizes.values()):,} bytes; the largest: {', '.join(largest)}"
