"""The build. A wheel gets conf/ as layerfit/conf, and layerfit/_build.json, which says which code it is."""

import json
import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
INSTALLATION = runpy.run_path(str(ROOT / "layerfit" / "installation" / "__init__.py"))


def write_build_record(package: Path) -> None:
    """Write which code `package` is, a copy of this tree's."""
    made = INSTALLATION["build_record"](ROOT / "layerfit", package)
    path = package / INSTALLATION["BUILD"]
    path.unlink(missing_ok=True)  # in an sdist it may be a hard link to the file in this tree
    path.write_text(json.dumps(made, indent=1) + "\n")


class BuildPy(build_py):
    """An editable install keeps reading the checkout's conf/; anything else gets a copy."""

    def run(self) -> None:
        """Copy modules, data files and conf/."""
        package = Path(self.build_lib) / "layerfit"
        if not self.editable_mode:  # what an earlier build left there would come along
            shutil.rmtree(package, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "conf", package / "conf", ignore=shutil.ignore_patterns("local"))
            write_build_record(package)


class Sdist(sdist):
    """A wheel built from an sdist knows its commit too."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the files, then say which code they are."""
        super().make_release_tree(base_dir, files)
        write_build_record(Path(base_dir) / "layerfit")


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
