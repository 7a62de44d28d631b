"""Every architecture of conf/model, tiny and random: it trains under every method, keeps the contract, and is saved."""

import re

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from layerfit.adapters.bottleneck import load_bottlenecks
from layerfit.anatomy import EMBEDDING, HEAD
from layerfit.config.schema import RunConfig
from layerfit.distributed import process
from layerfit.engines.base import Engine
from layerfit.methods import METHODS
from layerfit.methods.base import Plan
from layerfit.models.hub import load_model, load_tokenizer
from layerfit.records.record import Result
from layerfit.run import execution
from layerfit.run.attempt import Attempt
from layerfit.run.track import NoTracker
from tests.helpers.tiny import SETTINGS, adapted, context_for, engine_over, found_by, rows, share, state_for
from tests.helpers.tiny_models import BLOCK, OUTSIDE, TINY, run_of, write_model

OTHERS = [name for name in TINY if name != "llama3_8b"]
TRAINING = [name for name, cls in METHODS.items() if cls.trains]
STEPS = 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, config in TINY.items():
        write_model(root / name, config)
    return root


def engine_for(run: RunConfig) -> Engine:
    process.start(process.device_for("cpu"), run.engine.stage)
    model = load_model(run.model, run.hub, run.training.dtype, seed=run.seed)
    return engine_over(run, adapted(run, model), steps=STEPS)


def belongs(model: str, name: str) -> str | int | None:
    """The block or part of a parameter, by the names that the architectures' own code has: a second oracle."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    if found := re.match(BLOCK[model], name):
        return int(found[1])
    return next((part for part, names in OUTSIDE[model].items() if name in names), None)


def expected(model: str, names: list[str], plan: Plan) -> set[str]:
    """The parameters that a plan trains."""
    places = {int(unit.split(".")[1]) for unit in plan.units} | set(plan.always)
    places |= {EMBEDDING} if HEAD in places and HEAD not in OUTSIDE[model] else set()
    added = {name for name in names if ".lora_" in name or ".adapter_" in name or name.endswith(".entries")}
    return {name for name in added or names if belongs(model, name) in places}


def train(model: str, run: RunConfig, engine: Engine) -> tuple[list[float], list[str], dict]:
    """Train a few steps; return losses, what moved or stayed against the plan, and what was found out."""
    ctx, losses, faults = context_for(run, engine, STEPS), [], []
    weights = {n: engine.read_weight(n) for n in engine.parameters}
    for step in range(STEPS):
        plan = run.method.plan(step, ctx)
        engine.use(plan)
        losses.append(engine.step(share(rows(step), engine.rank, engine.world, engine.micro_batches), 0.003).loss)
        after = {n: engine.read_weight(n) for n in engine.parameters}
        moved = {n for n in weights if not torch.equal(weights[n], after[n])}
        wanted = expected(model, list(weights), plan)
        faults += [f"step {step}: {n} moved" for n in sorted(moved - wanted)]
        faults += [f"step {step}: {n} stayed" for n in sorted(wanted - moved)]
        weights = after
        if run.method.after_step(step, ctx):
            break
    faults += [f"{n} moved after step {step}" for n in weights if not torch.equal(weights[n], engine.read_weight(n))]
    return losses, faults, found_by(run, engine, ctx)


def saved_again(run: RunConfig, engine: Engine, folder) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the trained model, and of what transformers, PEFT or our loader make of its files."""
    tokenizer = load_tokenizer(run.model, run.hub)
    run.paths.results = str(folder)
    state = state_for(run, STEPS)
    loaded = execution.Loaded(run, torch.device("cpu"), engine.module, tokenizer, None, STEPS, 0, engine.anatomy, state)
    model = execution.trained_model(loaded, engine)
    execution.save_weights(Attempt(run, "id", folder, {}, NoTracker()), model, tokenizer, Result({}, "ok"))
    fresh = load_model(run.model, run.hub, "fp32", seed=run.seed)
    if (folder / "adapter" / "bottleneck.json").exists():
        again = load_bottlenecks(fresh, folder / "adapter")
    elif (folder / "adapter").exists():
        again = PeftModel.from_pretrained(fresh, folder / "adapter")
    else:
        again = AutoModelForCausalLM.from_pretrained(folder / "model")
    ids = rows(99).input_ids
    with torch.no_grad():
        return model.eval()(ids).logits, again.eval()(ids).logits


@pytest.fixture(autouse=True)
def one_group(monkeypatch):
    """The process group of this process is made once: torch.distributed does not start twice on a file."""
    monkeypatch.setattr(process, "stop", lambda: None)


@pytest.fixture(scope="module")
def reference():
    """Losses on engine torch, by model and method."""
    return {}


def case(folders, model: str, method: str, engine: str, out) -> list[float]:
    """Train one model under one method on one engine, and check everything that must hold."""
    run = run_of(folders, model, f"method={method}", f"engine={engine}", *SETTINGS[method])
    built = engine_for(run)
    losses, faults, found = train(model, run, built)
    assert faults == []
    shape = run.model.anatomy().shape(STEPS)
    ranked = {"block": shape.blocks(), "module": shape.modules()}
    scores = found.get("ranking", {}).get("scores", {})
    assert set(scores) == set(ranked.get(run.method.ranks, []))
    trained, loaded = saved_again(run, built, out)
    assert torch.allclose(trained, loaded, atol=1e-6)
    return losses


@pytest.mark.parametrize("method", TRAINING)
@pytest.mark.parametrize("model", OTHERS)
def test_every_method_trains_what_it_plans_and_what_is_saved_loads(folders, model, method, reference, tmp_path):
    reference[model, method] = case(folders, model, method, "torch", tmp_path)


ZERO = [("zero0", "ist"), ("zero0", "lisa"), ("zero0", "full"), ("zero3", "lisa")]
MORE = [
    ("zero3", "ist"),
    ("zero3", "full"),
    ("zero1", "lisa"),
    ("zero2", "lisa"),
    ("zero2", "ist"),
    ("zero0", "galore"),
    ("zero1", "ila"),
    ("zero1", "full"),
]


@pytest.mark.parametrize(("engine", "method"), [*ZERO, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in MORE)])
@pytest.mark.parametrize("model", OTHERS)
def test_deepspeed_does_the_same(folders, model, engine, method, reference, tmp_path):
    if (model, method) not in reference:
        reference[model, method] = case(folders, model, method, "torch", tmp_path / "torch")
    losses = case(folders, model, method, engine, tmp_path / "zero")
    assert losses == pytest.approx(reference[model, method], abs=1e-5)
