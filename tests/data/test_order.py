"""What a run trains on, seen from inside its ranks: no row twice, none left out, whoever does it and however often."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from layerfit import config
from layerfit.records import record

ROOT = Path(__file__).resolve().parents[2]
ROWS, BATCH, STEPS = 10, 4, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of different lengths, in words that the model knows."""
    tmp_path = tmp_path_factory.mktemp("order")
    rows = [{"prompt": "sign of", "response": "home " * (i + 1)} for i in range(ROWS)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def execute(folder, name, ranks=1, last=None, log="log"):
    """Execute a run in `folder/name`, as the sweep's launcher would; return what each rank was given, step by step."""
    words = ["dataset=local", f"dataset.path={folder}/d.jsonl", "eval=none", "engine=zero0", f"engine.ranks={ranks}"]
    words += [f"training.max_steps={STEPS}", f"training.batch_size={BATCH}", "training.max_length=32"]
    words += ["training.checkpoint_every=3", f"paths.outputs={folder}/{name}", f"paths.results={folder}/{name}"]
    with config.composer():
        run = config.compose(words)
    place = folder / name / config.run_id(run)
    place.mkdir(parents=True, exist_ok=True)
    (place / "run.json").write_text(json.dumps(config.dump(run)))
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", "0"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [sys.executable, *(launcher if ranks > 1 else []), str(ROOT / "tests" / "helpers" / "data_spy.py")]
    command += [str(place / "run.json"), str(folder / log), *([] if last is None else [str(last)])]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (last is None), done.stderr[-3000:]
    logs = [folder / f"{log}.{rank}" for rank in range(ranks)]
    steps = [[json.loads(line) for line in path.read_text().splitlines()] for path in logs]
    taken = [[tuple(ids) for rank in given for ids in rank] for given in zip(*steps, strict=True)]
    return taken if last is not None else taken[:-1], run  # the last is of the loss that is looked at after training


def result(folder, name, run):
    """The record's result, for comparison."""
    found = record.read(folder / name, config.run_id(run))
    return dataclasses.asdict(found.result)


@pytest.fixture(scope="module")
def one(folder):
    """One rank, undisturbed: what it was given, and the run."""
    return execute(folder, "one", log="one")


@pytest.mark.slow
def test_a_resumed_run_goes_on(folder, one):
    straight, run = one
    assert [len(step) for step in straight] == [BATCH] * STEPS
    # Every epoch has every row once, though epochs begin inside steps.
    flat = [row for step in straight for row in step]
    epochs = [flat[start : start + ROWS] for start in range(0, len(flat) - ROWS + 1, ROWS)]
    assert len(epochs) == 3
    assert all(len(set(epoch)) == ROWS for epoch in epochs)
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1]

    # Two ranks, killed in step 5, two steps after a checkpoint and in the middle of an epoch; then one rank goes on.
    before, _ = execute(folder, "killed", ranks=2, last=5, log="killed")
    assert [Counter(step) for step in before] == [Counter(step) for step in straight[:5]]
    after, again = execute(folder, "killed", log="again")
    assert config.run_id(again) == config.run_id(run)
    assert after == straight[3:]
    resumed, whole = result(folder, "killed", run), result(folder, "one", run)
    assert resumed["losses"] == pytest.approx(whole["losses"], abs=1e-5)
    assert resumed["tokens"] == whole["tokens"]
    assert resumed["data"] == whole["data"]


@pytest.mark.slow
def test_two_ranks_are_one_rank(folder, one):
    straight, run = one
    shared, _ = execute(folder, "two", ranks=2, log="two")
    assert [Counter(step) for step in shared] == [Counter(step) for step in straight]
    alone, together = result(folder, "one", run), result(folder, "two", run)
    assert together["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert (together["tokens"], together["data"]) == (alone["tokens"], alone["data"])
