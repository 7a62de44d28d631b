"""The wheel's files: all that git knows of the package and of conf/, nothing else. scripts/check_wheel.sh runs them."""

import json
import subprocess
import sys
import zipfile

import pytest

from layerfit.config import ROOT
from layerfit.installation import BUILD, digest, source


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", str(ROOT), *options], check=True)
    with zipfile.ZipFile(next(folder.glob("layerfit-*.whl"))) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"


def listed(*folders):
    """The files of this tree that are committed, or are about to be, as they are called in a wheel."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {f"layerfit/{line}" if line.startswith("conf/") else line for line in lines if (ROOT / line).is_file()}


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_data_and_conf(wheel):
    found = {path.relative_to(wheel).as_posix() for path in (wheel / "layerfit").rglob("*") if path.is_file()}
    assert found == listed("layerfit", "conf") | {f"layerfit/{BUILD}"}
    assert {"layerfit/py.typed", "layerfit/conf/config.yaml"} <= found


@pytest.mark.slow
def test_the_wheel_knows_its_commit(wheel):
    made, here = json.loads((wheel / "layerfit" / BUILD).read_text()), source()
    assert (made["commit"], made["dirty"]) == (here.commit, here.dirty)
    assert made["digest"] == digest(wheel / "layerfit")
    assert source(wheel / "layerfit") == here
