"""From the command to the training loop it is a short way: frames of ours on the stacks of parent and worker."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = """
import faulthandler, os, signal, sys, threading
file = open(os.environ["FRAMES"], "a", buffering=1)
if sys.argv[0] == "-m":  # the parent: `python -m layerfit ...`, before its module is found
    os.environ["PARENT"] = str(os.getpid())
    faulthandler.register(signal.SIGRTMIN, file=file, all_threads=False)

import importlib.abc, importlib.machinery

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "layerfit.run.loop":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            original = module.learning_rate
            def learning_rate(*args):  # called by `train` itself, at every step
                if module.time.sleep(0.2) is None and args[1] == 2:
                    faulthandler.dump_traceback(file, all_threads=False)
                    os.kill(int(os.environ["PARENT"]), signal.SIGRTMIN)
                return original(*args)
            module.learning_rate = learning_rate
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def test_at_most_eight_frames_lead_to_the_loop(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    env = os.environ | {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "FRAMES": str(tmp_path / "frames.txt")}
    words = ["method=full", "training.max_steps=4", "eval=none", "engine=torch"]
    command = [sys.executable, "-m", "layerfit", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "frames.txt").read_text().splitlines()
    ours = [line.strip() for line in lines if f'"{ROOT}/layerfit/' in line]
    assert any(line.endswith("in train") for line in ours)
    assert any("cli.py" in line for line in ours)
    print("\n".join(ours))
    assert len(ours) <= 8, "\n".join(ours)
