"""The script for a machine with two GPUs, on two CPU ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_script_holds_every_engine_to_the_contract():
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "scripts/check_two_gpus.py", "cpu"]
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = [line.split()[:2] for line in done.stdout.splitlines() if "kept on 2 ranks" in line]
    assert kept == [[m, e] for m in ("lora", "lisa") for e in ("zero0", "zero1", "zero2", "zero3")]
