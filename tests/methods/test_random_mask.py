"""Masks on single weights, against torch's AdamW over the drawn entries in one vector."""

import math

import pytest
import torch
from torch.func import functional_call

from layerfit.adapters.masked import MaskedLinear, draw_indices
from layerfit.errors import UserError
from tests.helpers.contract import watch
from tests.helpers.tiny import adapted, composed, context_for, engine_for, rows, share, tiny_llama

STEPS, LR = 12, 0.02


def train(*words: str, steps: int = STEPS):
    run = composed("method=random_mask", "method.share=0.1", *words)
    engine = engine_for(run)
    ctx = context_for(run, engine, steps)
    engine.use(run.method.plan(0, ctx))
    return [engine.step(share(rows(step), 0, 1, 2), LR) for step in range(steps)], engine


def indices_of(model: torch.nn.Module, density: float = 0.1) -> dict[str, torch.Tensor]:
    """The drawn indices of every linear module of a block, by parameter name."""
    named = [(n, p) for n, p in model.named_parameters() if "_proj" in n]
    units = {n: n.removeprefix("model.").removesuffix(".weight") for n, _ in named}
    return {n: draw_indices(units[n], p.shape, share=density, seed=0) for n, p in named}


def reference() -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Losses, gradient norms and final weights of a textbook loop over one vector of entries."""
    model = tiny_llama().requires_grad_(False)
    plain, indices = dict(model.named_parameters()), indices_of(model)
    vector = torch.nn.Parameter(torch.cat([plain[n].flatten()[p] for n, p in indices.items()]))
    optimizer = torch.optim.AdamW([vector], lr=LR, weight_decay=0.1)

    def put_in() -> dict[str, torch.Tensor]:
        parts = vector.split([len(p) for p in indices.values()])
        flat = {n: plain[n].flatten().index_put((p,), v) for (n, p), v in zip(indices.items(), parts, strict=True)}
        return {n: f.view_as(plain[n]) for n, f in flat.items()}

    losses, norms = [], []
    for step in range(STEPS):
        logits = functional_call(model, put_in(), kwargs={"input_ids": rows(step).input_ids}).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows(step).labels[:, 1:].flatten())
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_([vector], 0.05)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses, norms, {n: w.detach() for n, w in (plain | put_in()).items()}


@pytest.fixture(scope="module")
def expected():
    return reference()


@pytest.mark.parametrize("engine", ["torch", "zero0", "zero1", "zero2", "zero3"])
def test_it_is_adamw_over_the_drawn_entries(engine, expected):
    """Losses, the norm that is clipped, and every weight; clipping and decay on."""
    stats, built = train(f"engine={engine}", "optim.clip=0.05")
    losses, norms, weights = expected
    assert min(norms) > 0.05  # clipping binds
    assert [s.loss for s in stats] == pytest.approx(losses, abs=1e-5)
    assert [s.grad_norm for s in stats] == pytest.approx(norms, rel=1e-4)
    for name, indices in indices_of(tiny_llama()).items():
        entries = built.read_weight(name.removesuffix("weight") + "entries").flatten()
        torch.testing.assert_close(entries, weights[name].flatten()[indices], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_other_weights_keep_their_bits(dtype):
    _, engine = train("engine=torch", f"training.dtype={dtype}")
    before = tiny_llama(torch.float32 if dtype == "fp32" else torch.bfloat16).state_dict()
    after, indices = engine.module.state_dict(), indices_of(tiny_llama())
    assert set(after) == set(before)
    for name, weight in before.items():
        moved = (after[name] != weight).flatten().nonzero().squeeze(1)
        drawn = indices.get(name, torch.tensor([], dtype=torch.long))
        assert set(moved.tolist()) <= set(drawn.tolist()), name
        assert len(moved) >= (0.9 if dtype == "fp32" else 0.5) * len(drawn), name


@pytest.mark.parametrize("engine", ["zero0", "zero2", "zero3"])
def test_bf16_is_judged_on_masters(engine):
    report = watch("random_mask", engine, "bf16", steps=6)
    assert (report.frozen_moved, report.active_still, report.wrong_blocks) == ([], [], [])


def test_all_entries_are_all_matrices():
    """share=1 is training the linear modules themselves."""
    units = composed("method=full").model.anatomy().shape(0).modules()
    ours, _ = train("engine=torch", "method.share=1")
    run = composed("method=static", "engine=torch", f"method.units=[{','.join(units)}]")
    engine = engine_for(run)
    engine.use(run.method.plan(0, context_for(run, engine, STEPS)))
    theirs = [engine.step(share(rows(step), 0, 1, 2), LR) for step in range(STEPS)]
    assert [s.loss for s in ours] == pytest.approx([s.loss for s in theirs], abs=1e-6)
    assert [s.grad_norm for s in ours] == pytest.approx([s.grad_norm for s in theirs], rel=1e-5)


def test_draws():
    """Entries are drawn independently, by a function of seed and name, whatever was drawn before."""
    indices = draw_indices("layers.0.a", torch.Size((300, 400)), share=0.05, seed=0)
    sigma = math.sqrt(0.05 * 0.95 * 120_000)
    assert abs(len(indices) - 6000) < 4 * sigma
    rows_hit = torch.bincount(indices // 400, minlength=300).double()
    assert float(rows_hit.var()) == pytest.approx(400 * 0.05 * 0.95, rel=0.35)  # 4 sigma: sqrt(2 / 299) = 0.08
    assert torch.equal(indices, draw_indices("layers.0.a", torch.Size((300, 400)), share=0.05, seed=0))
    for name, seed in (("layers.0.b", 0), ("layers.0.a", 1)):
        other = set(draw_indices(name, torch.Size((300, 400)), share=0.05, seed=seed).tolist())
        assert len(other & set(indices.tolist())) < 300 + 4 * math.sqrt(300)


def test_the_run_seed_draws_unless_the_method_has_its_own():
    def entries(*words: str) -> set[int]:
        run = composed("method=random_mask", "method.share=0.1", *words)
        model = adapted(run, tiny_llama())
        return set(model.model.layers[0].self_attn.q_proj.indices.tolist())

    assert entries("seed=1") == entries("seed=0", "method.seed=1") != entries("seed=0")


def test_what_autograd_keeps_is_the_frozen_matrix_and_not_the_filled_one():
    plain = torch.nn.Linear(8, 6)
    layer = MaskedLinear(plain, torch.tensor([0, 9, 40]))
    x, kept = torch.randn(5, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        layer(x).sum().backward()
    assert set(kept) == {t.data_ptr() for t in (x, plain.weight, layer.entries)}
    assert plain.weight.grad is None


def test_state_is_held_for_the_entries_alone():
    _, engine = train("engine=torch", steps=1)
    drawn = sum(map(len, indices_of(tiny_llama()).values()))
    held = sum(s["exp_avg"].numel() for s in engine.optimizer.state.values())
    assert held == engine.num_trained() == drawn


def test_a_share_that_draws_nothing_is_refused():
    run = composed("method=random_mask", "method.share=1e-9")
    with pytest.raises(UserError, match=r"method\.share=1e-09 drew none"):
        adapted(run, tiny_llama())


@pytest.mark.parametrize(("word", "said"), [("share=0", "(0, 1]"), ("share=1.5", "(0, 1]"), ("targets=[q]", "q_proj")])
def test_bad_keys_are_refused(word, said):
    with pytest.raises(UserError) as error:
        composed("method=random_mask", f"method.{word}")
    assert said in str(error.value)


def test_targets_are_those_modules_alone():
    run = composed("method=random_mask", "method.share=0.1", "method.targets=[q_proj,v_proj]")
    model = adapted(run, tiny_llama())
    trained = {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "v_proj"}
