"""A cluster that is not there: `sbatch`, `squeue` and `scontrol` are scripts that write down what they are asked."""

import os

import pytest

from layerfit.launch import slurm

SWEEP = ["-m", "method=lora,ila", "training.batch_size=8", "eval.limit=20"]
FAKES = {
    "sbatch": 'n=$(cat "$DIR/last" 2>/dev/null || echo 100); n=$((n + 1)); echo $n > "$DIR/last"\n'
    'cp "$1" "$DIR/$n.sh"\n[ ! -e "$DIR/refuse" ] || { cat "$DIR/refuse" >&2; exit 1; }\n'
    'echo "Submitted batch job $n"\n',
    "squeue": 'echo "$@" >> "$DIR/squeue.calls"\n[ ! -e "$DIR/down" ] || exit 1\n'
    'cat "$DIR/queue" 2>/dev/null || true\n',
    "scontrol": 'echo "$@" >> "$DIR/scontrol.calls"\n',
    "srun": "exit 1\n",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder to work in, with a cluster's commands on PATH; returns where they write what they are asked."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, body in FAKES.items():
        (folder / name).write_text(f"#!/bin/sh\nDIR={folder}\n{body}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "GRACE_S", 0.0)
    monkeypatch.setattr(slurm, "POLL_S", {"slurm": 0.01, "submitit_local": 0.1})
    return folder
