"""Packed and padded, on every engine: the same losses, step by step, as the model learns."""

import json
import shutil
from pathlib import Path

import pytest

from layerfit import config
from layerfit.cli import main
from layerfit.distributed import process
from layerfit.engines import make_engine
from layerfit.records import record
from layerfit.run import loading
from layerfit.run.history import History
from layerfit.run.loop import train

MIRROR = Path(__file__).resolve().parents[3] / "shared" / "hub"
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no mirror at {MIRROR}")
LENGTHS = (9, 3, 12, 5, 7, 4, 11, 2, 6, 8, 3, 10)
WORDS = ("meal", "pet", "craft", "left")
STEPS = 5


def losses(tmp_path, engine, *words):
    """Train the embedded model on all rows in every step; return the losses and the number of training rows."""
    rows = [{"prompt": f"sign of {WORDS[i % 4]}", "response": "home with her " * n} for i, n in enumerate(LENGTHS)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = ["dataset=local", f"dataset.path={tmp_path}/d.jsonl", "eval=none", "optim.lr=3e-3", f"engine={engine}"]
    shared += [f"training.max_steps={STEPS}", "training.max_length=48", f"paths.outputs={tmp_path}", *words]
    with config.composer():
        run = config.compose([*shared, "training.batch_size=1"])
        process.start(process.device_for("cpu"), run.engine.stage)
        number = loading.load(run).data.num_rows
        run = config.compose([*shared, f"training.batch_size={number}"])
    loaded = loading.load(run)
    per_rank = run.training.batch_size // (run.training.micro_batch_size or run.training.batch_size)
    made = make_engine(loaded.model, loaded.anatomy, run, num_steps=STEPS, micro_batches=per_rank)
    history = History()
    train(loaded, made, history, lambda *, stops: None, lambda *_: None)  # noqa: ARG005
    made.close()
    return history.losses, number


SLOW = [pytest.param(f"zero{stage}", marks=pytest.mark.slow) for stage in (1, 2, 3)]


@pytest.mark.parametrize("engine", ["torch", "zero0", *SLOW])
def test_packed_is_padded(tmp_path, engine):
    padded, rows = losses(tmp_path, engine)
    packed, packed_rows = losses(tmp_path, engine, "training.packing=true")
    assert rows == len(LENGTHS) > packed_rows > 1
    assert packed == pytest.approx(padded, abs=1e-5)
    assert padded[0] - padded[-1] > 0.5  # it does learn: agreement of a model at rest would say little


SETS = {"alpaca_gpt4": 2060, "alpaca_cleaned": 51924, "lima": 1029, "commonsense_170k": 17754, "wikitext2": 3761}
"""Rows of the mirror's copies, by their READMEs (wikitext2: of its file)."""


@needs_mirror
@pytest.mark.slow
def test_every_data_set_of_the_mirror_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-m", f"dataset={','.join(SETS)}", "model=stories260k", "engine=torch", "eval=none", "save.weights=none"]
    words += ["training.max_steps=4", "training.batch_size=4", "training.max_length=256", f"hub.mirror={MIRROR}"]
    assert main([*words, "hub.offline=true"]) == 0
    found = [record.read("results", path.stem) for path in Path("results/runs").glob("*.json")]
    cards = {x.result.config["dataset"]["name"]: x.result.data for x in found}
    assert {name: card.rows for name, card in cards.items()} == SETS
    for run in found:
        card = run.result.data
        assert run.result.status == "ok"
        assert len(run.result.losses) == 4
        assert card.complete is False  # every copy is cut, or another edition
        assert card.rows == card.kept + sum(card.dropped.values())
        assert card.length_quantiles["1"] <= 256
        log = Path("outputs") / run.run_id / "log.txt"
        assert f"rows: {card.rows:,} read" in log.read_text()
    kept = {path: path.read_bytes() for path in Path("outputs/cache/tokens").iterdir()}
    assert len(kept) >= len(SETS)
    losses_before = {x.run_id: x.result.losses for x in found}
    shutil.rmtree("results")
    assert main([*words, "hub.offline=true"]) == 0  # now from kept tokens
    again = [record.read("results", path.stem) for path in Path("results/runs").glob("*.json")]
    assert {x.run_id: x.result.losses for x in again} == losses_before
    assert {path: path.read_bytes() for path in Path("outputs/cache/tokens").iterdir()} == kept
