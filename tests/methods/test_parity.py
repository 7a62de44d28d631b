"""Our methods against something else than themselves: libraries, hand-computed cases, equivalences."""

import copy
import importlib.util
import random
import sys
import types

import pytest
import torch
from peft import LoraConfig, get_peft_model

from layerfit.distributed import process
from layerfit.engines.base import set_seed
from layerfit.engines.loss import loss_sum
from layerfit.importance.mask import MaskSettings, learn_scores
from layerfit.importance.ranking import spearman
from layerfit.methods import METHODS
from layerfit.methods.lisa import draw_layers, interval
from layerfit.optimizers.adamw import AdamW
from layerfit.optimizers.galore import GaLoreAdamW, basis
from layerfit.run import checkpoint
from tests.helpers.tiny import (
    SETTINGS,
    adapted,
    composed,
    context_for,
    engine_for,
    engine_over,
    rows,
    share,
    tiny_llama,
)

STEPS = 12


def train(run, steps=STEPS, lr=0.01):
    engine = engine_for(run, steps=steps)
    ctx = context_for(run, engine, steps)
    losses = []
    for step in range(steps):
        engine.use(run.method.plan(step, ctx))
        losses.append(engine.step(share(rows(step), 0, 1, 2), lr).loss)
    return losses, engine


def plain_loop(model, optimizer, steps=STEPS, clip=1.0):
    """Textbook training on the same rows, without any of our engine."""
    losses = []
    for step in range(steps):
        batch = rows(step)
        logits = model(input_ids=batch.input_ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def decays(model):
    """Torch groups with decay on matrices only."""
    named = [p for p in model.parameters() if p.requires_grad]
    matrices, rest = [p for p in named if p.ndim > 1], [p for p in named if p.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.1}, *([{"params": rest, "weight_decay": 0.0}] if rest else [])]


def test_full_fine_tuning_is_a_plain_torch_loop():
    losses, engine = train(composed("method=full", "engine=torch"))
    model = tiny_llama()
    assert losses == pytest.approx(plain_loop(model, torch.optim.AdamW(decays(model), lr=0.01)), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(engine.read_weight(name), parameter.detach(), atol=1e-4, rtol=0)


def test_lora_is_a_plain_peft_loop():
    run = composed("method=lora", "engine=torch", *SETTINGS["lora"])
    losses, _ = train(run, lr=0.003)
    model = tiny_llama()
    set_seed("adapt", run.method.seed)
    config = LoraConfig(r=2, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    assert losses == pytest.approx(plain_loop(model, torch.optim.AdamW(decays(model), lr=0.003)), abs=1e-5)


@pytest.mark.parametrize("engine", ["torch", "zero0", "zero3"])
def test_a_loaded_model_trains_with_its_dropout(engine):
    """`from_pretrained` returns a model in evaluation mode."""
    losses = {}
    for dropout in (0.0, 0.5):
        run = composed("method=lora", f"engine={engine}", *SETTINGS["lora"], f"method.dropout={dropout}")
        process.start(process.device_for("cpu"), run.engine.stage)
        built = engine_over(run, adapted(run, tiny_llama().eval()), 1)
        built.use(run.method.plan(0, context_for(run, built, 4)))
        losses[dropout] = [built.step(share(rows(step), 0, 1, 1), 0.01).loss for step in range(4)]
        assert all(module.training for module in built.module.modules())
    assert losses[0.5] != pytest.approx(losses[0.0], abs=1e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_is_torch(fused):
    torch.manual_seed(0)
    ours, theirs = torch.nn.Parameter(torch.randn(8, 5)), torch.nn.Parameter(torch.zeros(8, 5))
    theirs.data.copy_(ours.data)
    a = AdamW([{"params": [ours], "weight_decay": 0.1}], lr=0.01)
    b = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, fused=fused)
    for _ in range(20):
        ours.grad = torch.randn(8, 5)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, atol=0 if fused else 1e-7, rtol=0)


def test_bf16_follows_fp32_through_its_master():
    torch.manual_seed(0)
    low = torch.nn.Parameter(torch.randn(64).bfloat16())
    high = torch.nn.Parameter(low.detach().float())
    a = AdamW([{"params": [low]}], lr=1e-4)
    b = torch.optim.AdamW([high], lr=1e-4, weight_decay=0.0, fused=True)
    for _ in range(50):
        low.grad = torch.randn(64).bfloat16()
        high.grad = low.grad.float()
        a.step()
        b.step()
    assert torch.equal(a.state[low]["master"], high.detach())
    assert torch.equal(low.detach(), high.detach().bfloat16())


@pytest.fixture
def reference_galore(monkeypatch):
    """galore-torch's AdamW. Its package would import bitsandbytes for an 8-bit variant, which is not compared here."""
    spec = importlib.util.find_spec("galore_torch")
    if spec is None:
        pytest.skip("galore-torch, the reference, is not installed: it is a development dependency")
    package = types.ModuleType("galore_torch")
    package.__path__ = list(spec.submodule_search_locations or [])
    monkeypatch.setitem(sys.modules, "galore_torch", package)
    return importlib.import_module("galore_torch.adamw").AdamW


@pytest.mark.parametrize("rank", [3, 7])  # 7: nothing is left out, and moments have the weight's own shape
@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
def test_galore_is_galore_torch(shape, rank, reference_galore):
    torch.manual_seed(0)
    ours, bias = torch.nn.Parameter(torch.randn(shape)), torch.nn.Parameter(torch.randn(4))
    theirs, their_bias = copy.deepcopy(ours), copy.deepcopy(bias)
    options = {"rank": rank, "refresh_every": 5, "scale": 0.25, "projection": "svd", "seed": 0}
    a = GaLoreAdamW([{"params": [ours], "weight_decay": 0.1, **options}, {"params": [bias]}], lr=0.01)
    reference = {"rank": rank, "update_proj_gap": 5, "scale": 0.25, "proj_type": "std", "weight_decay": 0.1}
    b = reference_galore(
        [{"params": [theirs], **reference}, {"params": [their_bias]}], lr=0.01, no_deprecation_warning=True, eps=1e-8
    )
    for _ in range(13):
        for mine, other in ((ours, theirs), (bias, their_bias)):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(bias, their_bias, atol=1e-5, rtol=0)


def test_near_epsilon_matrices_follow_galore_torch_and_the_rest_torch(reference_galore):
    """Gradients of epsilon's size, where its place changes an update by more than half."""
    torch.manual_seed(0)
    start, rest = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(40, dtype=torch.float64)
    ours, bias, theirs, their_bias, plain = (torch.nn.Parameter(t.clone()) for t in (start, rest, start, rest, rest))
    options = {"rank": 6, "refresh_every": 5, "scale": 0.25, "projection": "svd", "seed": 0}
    a = GaLoreAdamW([{"params": [ours], **options}, {"params": [bias]}], lr=0.01, eps=1e-8)
    reference = {"rank": 6, "update_proj_gap": 5, "scale": 0.25, "proj_type": "std"}
    b = reference_galore(
        [{"params": [theirs], **reference}, {"params": [their_bias]}], lr=0.01, no_deprecation_warning=True, eps=1e-8
    )
    c = torch.optim.AdamW([plain], lr=0.01, eps=1e-8, weight_decay=0.0)
    for _ in range(3):
        matrix, vector = 1e-8 * torch.randn_like(start), 1e-8 * torch.randn_like(rest)
        for parameter, gradient in ((ours, matrix), (theirs, matrix), (bias, vector), (their_bias, vector)):
            parameter.grad = gradient.clone()
        plain.grad = vector.clone()
        for optimizer in (a, b, c):
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-4)
    torch.testing.assert_close(bias, plain, atol=1e-8, rtol=1e-3)
    assert (their_bias - plain).norm() > 0.5 * plain.norm()


def test_the_randomised_basis_spans_what_the_svd_spans():
    torch.manual_seed(0)
    gradient = torch.randn(40, 6) @ torch.randn(6, 30)
    exact = basis(gradient, rank=6, projection="svd", seed=0)
    quick = basis(gradient, rank=6, projection="randomized", seed=0)
    torch.testing.assert_close(quick @ quick.T, torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(quick.T @ quick, exact.T @ exact, atol=1e-4, rtol=0)


def test_galore_state_loads_as_plain_tensors(tmp_path):
    _, engine = train(composed("method=galore", "engine=torch", *SETTINGS["galore"]), steps=2)
    torch.save(engine.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert any("basis" in state for state in loaded["states"].values())


@pytest.mark.parametrize("engine", ["torch", "zero2"])
def test_lisa_with_all_layers_and_one_interval_is_full(engine):
    lisa = composed("method=lisa", f"engine={engine}", "method.num_active=4", "method.switch_every=100")
    losses, trained = train(lisa)
    expected, full = train(composed("method=full", f"engine={engine}"))
    assert losses == pytest.approx(expected, abs=1e-5)
    for name in full.parameters:
        torch.testing.assert_close(trained.read_weight(name), full.read_weight(name), atol=1e-4, rtol=0)


def test_lisa_draws_exactly_gamma_uniformly_and_keeps_them_k_steps():
    draws = [draw_layers(num_layers=8, num_active=2, draw=d, seed=0, sampling="exact") for d in range(4000)]
    assert {len(d) for d in draws} == {2}
    counts = [sum(i in d for d in draws) for i in range(8)]
    assert max(abs(c - 1000) for c in counts) < 120  # 4 sigma: sqrt(4000 * 1/4 * 3/4) = 27
    run = composed("method=lisa", "method.switch_every=5")
    ctx = context_for(run, None, 20)
    plans = [run.method.plan(step, ctx) for step in range(10)]
    assert len(set(plans[:5])) == 1
    assert len(set(plans[5:])) == 1


def test_bernoulli_sampling_has_the_mean_but_not_the_count():
    draws = [draw_layers(num_layers=8, num_active=2, draw=d, seed=0, sampling="bernoulli") for d in range(4000)]
    assert len({len(d) for d in draws}) > 3
    assert sum(map(len, draws)) / 4000 == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("text", "steps", "expected"), [("20", 7, 20), ("T/25", 122, 5), ("T/25", 10, 1), ("T", 9, 9)])
def test_intervals(text, steps, expected):
    assert interval(text, steps) == expected


def test_the_mask_gradient_is_a_finite_difference():
    run = composed("method=lora", "engine=torch", *SETTINGS["lora"])
    _, engine = train(run, steps=4)
    engine.module.double()
    units = run.model.anatomy().modules()
    gammas = {u: 0.3 + 0.02 * i for i, u in enumerate(units)}
    batches = share(rows(500), 0, 1, 1)
    loss, gradient = engine.response_gradient(batches, gammas)
    assert loss == pytest.approx(engine.mean_loss(batches, gammas), abs=1e-6)
    for unit in (units[0], units[9], units[-1]):
        up, down = ({**gammas, unit: gammas[unit] + d} for d in (1e-2, -1e-2))
        difference = (engine.mean_loss(batches, up) - engine.mean_loss(batches, down)) / 2e-2
        assert gradient[unit] == pytest.approx(difference, abs=2e-5)
    assert all(p.grad is None for p in engine.module.parameters())


def test_responses_come_back_after_an_exception():
    run = composed("method=lora", "engine=torch", *SETTINGS["lora"])
    engine = engine_for(run)
    batch = share(rows(0), 0, 1, 1)
    engine.use(run.method.plan(0, context_for(run, engine, 1)))
    engine.step(batch, 0.01)
    before = engine.mean_loss(batch)
    with pytest.raises(KeyError, match="no adapter"):
        engine.mean_loss(batch, {"layers.99": 0.0})
    assert engine.mean_loss(batch, {"layers.0": 0.0}) != before
    assert engine.mean_loss(batch) == before


def test_sgd_keeps_the_order_of_the_gradients_and_adam_does_not():
    """`papers`: with same-sign gradients over four decades Adam moves every score by about lr a step."""
    units = [f"u{i}" for i in range(50)]
    size = {u: 10 ** (-4 * i / 49) for i, u in enumerate(units)}
    rng = random.Random(0)

    def gradient(gammas, batch):
        return 0.0, {u: -size[u] * rng.uniform(0.8, 1.2) for u in gammas}

    orders = {}
    for optimizer in ("sgd", "adam"):
        settings = MaskSettings(init=4.0, lr=0.01, steps=100, optimizer=optimizer, penalty=0.0)
        orders[optimizer] = spearman(learn_scores(settings, units, gradient, range(100))[0], size)
    assert orders["sgd"] > 0.99
    assert abs(orders["adam"]) < 0.9


SHARDED = ("zero1", "zero2", "zero3")
RESUMED = [
    pytest.param(method, engine, marks=[pytest.mark.slow] if engine in SHARDED and method != "lisa" else [])
    for method in ("full", "galore", "adalora", "lisa", "ist", "lift", "random_mask")
    for engine in ("torch", "zero0", *SHARDED)
    if not (METHODS[method].needs_matrices and engine in SHARDED)
]


@pytest.mark.parametrize(("method", "engine"), RESUMED)
def test_a_resumed_run_is_the_straight_run(method, engine):
    """Bitwise on one rank, in the middle of an interval."""
    words = (f"method={method}", f"engine={engine}", *SETTINGS[method])
    straight, end = train(composed(*words), steps=10)
    run = composed(*words)
    first = engine_for(run, steps=10)
    ctx = context_for(run, first, 10)
    for step in range(5):
        first.use(run.method.plan(step, ctx))
        first.step(share(rows(step), 0, 1, 2), 0.01)
    saved, method_state = first.state_dict(), checkpoint.fields_of(ctx.state)
    first.close()
    run = composed(*words)
    second = engine_for(run, steps=10)
    second.load_state_dict(saved)
    ctx = context_for(run, second, 10)
    checkpoint.restore(ctx.state, method_state)
    losses = []
    for step in range(5, 10):
        second.use(run.method.plan(step, ctx))
        losses.append(second.step(share(rows(step), 0, 1, 2), 0.01).loss)
    assert losses == straight[5:]
    for name in second.parameters:
        assert torch.equal(second.read_weight(name), end.read_weight(name)), name


def test_the_loss_counts_targets_over_all_micro_batches():
    """Uneven targets: a mean of micro-batch means would be another number."""
    run = composed("method=full", "engine=torch")
    engine = engine_for(run)
    engine.use(run.method.plan(0, context_for(run, engine, 1)))
    batch = rows(3)
    with torch.no_grad():
        total = float(loss_sum(engine.module, batch)) / batch.num_targets
    assert engine.step(share(batch, 0, 1, 2), 0.0).loss == pytest.approx(total, abs=1e-6)
