"""A number that is not finite ends a run as diverged: on every engine at the same step, in the same words.

The faults are planted: a gradient, a weight, a loss, a score.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deepspeed import DeepSpeedEngine

from layerfit import config
from layerfit.engines.finite import check_weights, not_finite
from layerfit.errors import Diverged, finite
from layerfit.evaluation import perplexity
from layerfit.importance.mask import MaskSettings, learn_scores
from layerfit.importance.ranking import spearman
from layerfit.launch.queue import Queued
from layerfit.records import record
from layerfit.records.record import Measured, Record, Result, Score
from layerfit.run import execution, worker
from layerfit.run.nulls import without_infinities
from tests.engines.test_contract import ENGINES
from tests.helpers.poisoned import GRADIENT, LOSS, poisoned
from tests.helpers.tiny import SETTINGS, composed, context_for, engine_for, rows, share

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("value", EXAMPLES)
def test_a_number_is_finite_or_the_run_has_diverged(value):
    assert finite("loss", 2.5) == 2.5
    with pytest.raises(Diverged, match=r"^the loss is not finite$"):
        finite("loss", value)


@pytest.mark.parametrize(("dtype", "clip"), [("fp32", 1.0), ("bf16", 0.0)])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_that_is_not_finite_ends_the_run_at_its_step(engine, dtype, clip):
    """The loss is finite: without a look at the gradient the step would pass, taken or skipped."""
    words = ("method=full", f"engine={engine}", f"training.dtype={dtype}", f"optim.clip={clip}")
    assert poisoned(words, GRADIENT, math.inf) == (2, "the gradient norm is not finite", [])


@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_a_step_that_deepspeed_skips_is_seen_whatever_norm_it_tells(engine, monkeypatch):
    """Its norm of a skipped step has been -1, stale and infinite in turn from version to version."""
    monkeypatch.setattr(DeepSpeedEngine, "get_global_grad_norm", lambda _: 1.0)
    assert poisoned(("method=full", f"engine={engine}"), GRADIENT, math.inf)[:2] == (
        2,
        "the gradient norm is not finite",
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(engine):
    assert poisoned(("method=full", f"engine={engine}"), LOSS, math.nan)[:2] == (2, "the loss is not finite")


@pytest.mark.parametrize("engine", ["torch", "zero0"])
@pytest.mark.parametrize("projection", ["svd", "randomized"])
@pytest.mark.parametrize("value", EXAMPLES)
def test_no_decomposition_meets_a_gradient_that_is_not_finite(engine, projection, value):
    words = ("method=galore", f"engine={engine}", "method.rank=4", "method.refresh_every=1")
    words += (f"method.projection={projection}",)
    assert poisoned(words, GRADIENT, value) == (2, "the gradient norm is not finite", [])


@pytest.mark.parametrize("method", ["lisa", "ist"])
@pytest.mark.parametrize("engine", ["torch", "zero2"])
def test_every_kind_of_plan_says_the_same(method, engine):
    words = (f"method={method}", f"engine={engine}", *SETTINGS[method])
    assert poisoned(words, GRADIENT, math.nan) == (2, "the gradient norm is not finite", [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GRADIENT, LOSS])
def test_two_ranks_say_the_same_where_one_of_them_is_poisoned(kind, tmp_path):
    engines = [e for e in ENGINES if e != "torch"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "-m", "tests.helpers.poisoned", str(tmp_path), kind, *engines]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for rank in (0, 1) for line in (tmp_path / str(rank)).read_text().splitlines()]
    assert [said[:2] for said in found] == [[2, f"the {kind} is not finite"]] * (2 * len(engines))


@pytest.mark.parametrize(("engine", "value"), [("torch", math.nan), ("torch", -math.inf), ("zero3", math.inf)])
def test_weights_are_looked_at_after_the_last_step(engine, value):
    run = composed("method=lora", "method.rank=2", f"engine={engine}")
    built = engine_for(run)
    built.use(run.method.plan(0, context_for(run, built, 1)))
    check_weights(built)
    name = sorted(built.among)[3]
    whole = built.read_weight(name)
    whole.view(-1)[-1] = value
    built.write_weight(name, whole)
    with pytest.raises(Diverged, match=re.escape(f"the weight {name} (1 of {len(built.among)} that train)")):
        check_weights(built)
    built.close()


def test_every_place_of_a_tensor_is_looked_at():
    zero, empty = torch.zeros(3, 5), torch.zeros(0)
    low = torch.full((4,), 3.3e38, dtype=torch.bfloat16)  # the largest numbers are numbers
    assert not_finite([empty, zero, low, -low]) == [False] * 4
    for place in range(15):
        for value in EXAMPLES:
            bad = zero.clone()
            bad.view(-1)[place] = value
            assert not_finite([zero, bad, empty, bad.bfloat16()]) == [False, True, False, True]


def test_probes_and_their_gradients_are_finite_or_refused():
    run = composed("method=ist", *SETTINGS["ist"])
    engine = engine_for(run)
    batches = share(rows(0), 0, 1, 1)
    engine.use(run.method.plan(0, context_for(run, engine, 1)))
    with torch.no_grad():
        engine.parameters[next(n for n in engine.parameters if n.endswith("lm_head.weight"))].fill_(math.nan)
    for ask in (lambda: engine.mean_loss(batches), lambda: engine.response_gradient(batches, {"layers.0": 1.0})):
        with pytest.raises(Diverged, match="the probe loss is not finite"):
            ask()
    with pytest.raises(Diverged, match="the validation loss is not finite"):
        engine.mean_loss(batches, what="validation loss")


def test_scores_of_a_mask_that_run_away_are_refused():
    """Neither an overflow of exp, nor NaN, whose ranks never end."""
    settings = MaskSettings(init=4.0, lr=1e4, steps=3, optimizer="sgd", penalty=0.0)
    falling = learn_scores(settings, ["a", "b"], lambda g, _: (1.0, dict.fromkeys(g, 1.0)), range(3))[0]
    assert falling["a"] < -100
    with pytest.raises(Diverged, match="the ranking score of a is not finite"):
        learn_scores(settings, ["a", "b"], lambda g, _: (1.0, dict.fromkeys(g, math.nan)), range(3))
    with pytest.raises(Diverged, match="the ranking score of y is not finite"):
        spearman({"x": 1.0, "y": math.nan}, {"x": 1.0, "y": 2.0})


def test_a_perplexity_that_no_float_holds_is_no_crash():
    assert perplexity.perplexity(2.0) == math.exp(2.0)
    assert perplexity.perplexity(1e5) == math.inf
    assert math.isnan(perplexity.perplexity(math.nan))


def record_with(**changes) -> Record:
    measured = Measured(1.0, peak_memory_bytes={"weights": 4}, unknown={"x": "y"}, energy_joules=math.inf)
    found = {"norms": {"mean": [1.0, math.nan], "update": [1.0]}, "ranking": {"scores": {"a": 1.0}}}
    score = Score("t", "acc", 0.5, math.nan, 1, 1, 0, "1", True, "d")
    return Record(record.id_of({}), "lora", "", Result({}, "ok", scores=[score], findings=found), measured)


def test_what_else_is_not_finite_is_null_with_its_reason(tmp_path):
    kept = without_infinities(record_with())
    assert kept.result.findings["norms"] == {"mean": [1.0, None], "update": [1.0]}
    assert kept.result.scores[0].stderr is None
    assert kept.measured.energy_joules is None
    names = {"findings/norms/mean", "stderr/t/acc", "energy_joules"}
    assert kept.measured.unknown == {"x": "y", **dict.fromkeys(names, "it is not finite")}
    record.write(kept, {}, tmp_path)
    assert record.read(tmp_path, kept.run_id) == kept
    assert without_infinities(kept) is kept


def execute(tmp_path, *words) -> Result:
    """The result of a run in the embedded world, executed in this process."""
    paths = [f"paths.{kind}={tmp_path / kind}" for kind in ("outputs", "results")]
    with config.composer():
        run = config.compose(["engine=torch", "training.batch_size=4", *words, *paths])
    worker.work(Queued(run, config.run_id(run)).write())
    return record.read(run.paths.results, config.run_id(run)).result


def test_the_last_update_is_looked_at_before_anything_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "evaluate", lambda *_: pytest.fail("evaluated"))
    words = ("method=full", "eval=nano", "optim.warmup_ratio=0", "optim.schedule=constant", "optim.lr=3e38")
    found = execute(tmp_path, *words, "training.max_steps=1")
    assert (found.status, len(found.losses), found.scores) == ("diverged", 1, [])
    assert re.match(r"the (weight .*|loss) is not finite after the last step; lower optim\.lr=3e\+38", found.message)


def test_a_validation_loss_ends_a_run_at_its_step(tmp_path, monkeypatch):
    from layerfit.engines.base import Engine

    mean_loss = Engine.mean_loss

    def failing(self, batches, scales=None, what="probe loss"):
        return finite(what, mean_loss(self, batches, scales) if what != "validation loss" else math.nan)

    monkeypatch.setattr(Engine, "mean_loss", failing)
    words = ("method=lora", "eval=none", "training.max_steps=4", "training.eval_every=2", "dataset.num_validation=8")
    found = execute(tmp_path, *words)
    assert (found.status, found.validation, len(found.losses)) == ("diverged", [], 2)
    assert found.message.startswith("the validation loss is not finite at step 1; lower optim.lr=")


def test_a_score_that_is_not_finite_is_a_divergence_by_name(tmp_path, monkeypatch):
    score = Score("a_task", "acc", -math.inf, None, 1, 1, 0, "1", True, "d")
    monkeypatch.setattr(execution, "evaluate", lambda *_: ([score], {}))
    found = execute(tmp_path, "method=lora", "eval=nano", "training.max_steps=1")
    assert (found.status, found.scores) == ("diverged", [])
    assert found.message.startswith("the score a_task/acc is not finite after the last step")
