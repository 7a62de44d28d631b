"""Adapters beside LoRA against something else than themselves: PEFT's loop, published formulas, hand-counted sizes."""

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from layerfit import config
from layerfit.adapters.bottleneck import bottlenecks, load_bottlenecks
from layerfit.adapters.peft import save_trained
from layerfit.engines.base import set_seed
from layerfit.errors import UserError
from layerfit.launch.queue import Queued
from layerfit.optimizers.adalora import RankAdamW
from layerfit.records import record
from layerfit.run import checkpoint, worker
from tests.helpers.tiny import SETTINGS, adapted, composed, context_for, engine_for, found_by, rows, share, tiny_llama
from tests.methods.test_parity import decays, plain_loop, train


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=rows(99).input_ids).logits


def test_dora_is_a_plain_peft_loop():
    run = composed("method=dora", "engine=torch", *SETTINGS["dora"])
    losses, engine = train(run, lr=0.003)
    model = tiny_llama()
    set_seed("adapt", run.method.seed)
    config = LoraConfig(r=2, lora_alpha=16, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    assert losses == pytest.approx(plain_loop(model, torch.optim.AdamW(decays(model), lr=0.003)), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(engine.read_weight(name), parameter.detach(), atol=1e-5, rtol=0)


def test_dora_is_equation_5_merged():
    """W' = m (W + s B A) / ||W + s B A||, norm and magnitude per output, put in the place of W."""
    run = composed("method=dora", "engine=torch", *SETTINGS["dora"])
    _, engine = train(run, lr=0.003)
    merged = tiny_llama()
    tensors = dict(engine.module.named_parameters())
    moved = 0.0
    for unit in run.model.anatomy().modules():
        name = f"model.{unit}"
        prefix = f"base_model.model.{name}."
        a, b = (tensors[f"{prefix}lora_{side}.default.weight"] for side in "AB")
        magnitude = tensors[f"{prefix}lora_magnitude_vector.default.weight"]
        weight = merged.get_submodule(name).weight
        moved += float((magnitude - weight.norm(dim=1)).abs().sum())
        direction = weight + 16 / 2 * b @ a
        weight.data = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    assert moved > 1
    torch.testing.assert_close(logits(engine.module), logits(merged), atol=1e-5, rtol=0)


def bottleneck_loop(model, kind, size=3):
    """LLM-Adapters' formulas by forward hooks on a plain model: no wrapper, its own matrices."""
    torch.manual_seed(5)
    matrices = torch.nn.ParameterDict()
    for name, module in list(model.named_modules()):
        if name.endswith("down_proj") or (name.endswith("up_proj") and kind == "parallel"):
            width_in = module.out_features if kind == "series" else module.in_features
            key = name.replace(".", "_")
            matrices[key + "_down"] = torch.randn(size, width_in) * 0.1
            matrices[key + "_up"] = torch.randn(module.out_features, size) * 0.1

            def response(module, args, z, key=key):
                v = z if kind == "series" else args[0]
                return z + 0.5 * torch.tanh(v @ matrices[key + "_down"].T) @ matrices[key + "_up"].T

            module.register_forward_hook(response)
    model.requires_grad_(False)
    model.adapters = matrices
    return matrices


@pytest.mark.parametrize("kind", ["series", "parallel"])
def test_bottlenecks_are_the_published_formulas(kind):
    """Trained from the same start, wrapped modules and hooks on a plain model stay together."""
    run = composed(f"method={kind}", "engine=torch", "method.size=3", "method.scale=0.5")
    plain = tiny_llama()
    matrices = bottleneck_loop(plain, kind)
    engine = engine_for(run)
    ours = bottlenecks(engine.module)
    with torch.no_grad():
        for path, layer in ours.items():
            layer.adapter_down.weight.copy_(matrices[path.replace(".", "_") + "_down"])
            layer.adapter_up.weight.copy_(matrices[path.replace(".", "_") + "_up"])
    assert 2 * len(ours) == len(matrices)
    ctx = context_for(run, engine, 12)
    losses = []
    for step in range(12):
        engine.use(run.method.plan(step, ctx))
        losses.append(engine.step(share(rows(step), 0, 1, 2), 0.003).loss)
    assert losses == pytest.approx(plain_loop(plain, torch.optim.AdamW(decays(plain), lr=0.003)), abs=1e-5)
    torch.testing.assert_close(logits(engine.module), logits(plain), atol=1e-5, rtol=0)


def test_a_series_adapter_before_the_mlp_is_on_its_input():
    run = composed("method=series", "method.size=3", "method.targets=[gate_proj]", "method.init=normal")
    model, plain = engine_for(run).module, tiny_llama()
    for path, layer in bottlenecks(model).items():
        down, up = layer.adapter_down.weight.detach(), layer.adapter_up.weight.detach()

        def onto(module, args, down=down, up=up):
            return (args[0] + torch.tanh(args[0] @ down.T) @ up.T,)

        plain.get_submodule(path).register_forward_pre_hook(onto)
    torch.testing.assert_close(logits(model), logits(plain), atol=1e-6, rtol=0)
    assert not torch.allclose(logits(model), logits(tiny_llama()), atol=1e-5)


@pytest.mark.parametrize(("init", "same"), [("zero", True), ("normal", False)])
def test_training_starts_from_the_pretrained_model(init, same):
    run = composed("method=parallel", "method.size=3", f"method.init={init}")
    assert torch.equal(logits(engine_for(run).module), logits(tiny_llama())) == same


TARGETS = "method.targets=[q_proj,k_proj,v_proj,up_proj,down_proj]"


@pytest.mark.parametrize(
    ("words", "count", "percent"),
    [
        # Table 1 of arXiv:2402.09353, in per cent of all parameters, adapters included.
        (["method=series"], 32 * 256 * 2 * 4096, 0.99),
        (["method=parallel"], 32 * 256 * 2 * (4096 + 11008), 3.54),
        (["method=lora", "method.rank=32", TARGETS], 32 * 32 * (3 * 2 * 4096 + 2 * (4096 + 11008)), 0.83),
        (["method=dora", "method.rank=32", TARGETS], 56_098_816 + 32 * (4 * 4096 + 11008), 0.84),
        (["method=dora", "method.rank=16", TARGETS], 56_098_816 // 2 + 32 * (4 * 4096 + 11008), 0.43),
    ],
    ids=["series", "parallel", "lora", "dora", "dora half"],
)
def test_trained_shares_of_llama_7b_are_the_published_ones(words, count, percent):
    with config.composer():
        run = config.compose(["model=llama_7b", *words])
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(hidden_size=4096, intermediate_size=11008, vocab_size=32000))
        model = adapted(run, model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == count
    assert round(100 * trained / sum(p.numel() for p in model.parameters()), 2) == percent


def test_saved_bottlenecks_hold_adapters_alone_and_refuse_another_model(tmp_path):
    run = composed("method=parallel", "engine=torch", *SETTINGS["parallel"])
    _, engine = train(run, lr=0.003)
    save_trained(engine.module, tmp_path)
    trained = sum(engine.parameters[name].numel() for name in engine.among)
    assert sum(t.numel() for t in load_file(tmp_path / "adapter.safetensors").values()) == trained
    torch.testing.assert_close(logits(load_bottlenecks(tiny_llama(), tmp_path)), logits(engine.module), atol=0, rtol=0)
    with pytest.raises(UserError, match="another model"):
        load_bottlenecks(tiny_llama(layers=3), tmp_path)
    with pytest.raises(UserError, match=r"holds no bottleneck\.json"):
        load_bottlenecks(tiny_llama(), tmp_path / "nowhere")


@pytest.mark.parametrize("base", ["series", "parallel"])
def test_a_probe_scales_what_a_bottleneck_adds_and_puts_it_back(base):
    """The response of a block at a quarter is that of its `up` matrices at a quarter."""
    words = [f"method.base={base}", "method.size=3", "method.init=normal", "method.update_every=1", "method.mu=1e4"]
    run = composed("method=ist", "engine=torch", *words)
    engine = engine_for(run)
    ctx, batches = context_for(run, engine, 8), share(rows(5), 0, 1, 1)
    for name in engine.among:
        engine.parameters[name].data *= 50  # N(0, 1): a response that shows
    layers = {path: layer for path, layer in bottlenecks(engine.module).items() if ".layers.1." in path}
    before, scaled = engine.mean_loss(batches), engine.mean_loss(batches, {"layers.1": 0.25})
    assert engine.mean_loss(batches) == before
    for layer in layers.values():
        layer.adapter_up.weight.data *= 0.25
    assert scaled == pytest.approx(engine.mean_loss(batches), abs=1e-6)
    assert abs(scaled - before) > 1e-4
    for step in range(8):
        engine.use(run.method.plan(step, ctx))
    assert any(found_by(run, engine, ctx)["importance"])


@pytest.mark.parametrize(("warmup", "final", "every"), [(0, 0, 1), (5, 10, 3)])
def test_adalora_is_a_plain_peft_loop(warmup, final, every):
    """PEFT's modules, loss term and allocation, called as its documentation says, on 40 steps; then the ranks."""
    words = ["method.init_rank=4", "method.rank=2", f"method.warmup={warmup}", f"method.final={final}"]
    run = composed("method=adalora", "engine=torch", *words, f"method.allocate_every={every}")
    _, engine = train(run, steps=40, lr=0.003)
    model = tiny_llama()
    set_seed("adapt", run.method.seed)
    settings = AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=24, tinit=warmup, tfinal=final, deltaT=every, total_step=40,
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(model, settings)
    optimizer = torch.optim.AdamW(decays(model), lr=0.003)
    trained = [p for p in model.parameters() if p.requires_grad]
    for step in range(40):
        batch = rows(step)
        model(input_ids=batch.input_ids, labels=batch.labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    ranks = found_by(run, engine, context_for(run, engine, 40))["ranks"]
    assert ranks == {
        name.removeprefix("model.").removesuffix(".lora_E.default"): sum(kept)
        for name, kept in model.peft_config["default"].rank_pattern.items()
    }
    assert sum(ranks.values()) == 2 * 28
    assert len(set(ranks.values())) > 2
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(engine.read_weight(name), parameter.detach(), atol=2e-6, rtol=0, msg=name)


def test_lost_ranks_stay_lost_in_bf16():
    """The fp32 master of a lost singular value is zero too, or the next update would bring it back."""
    words = ("training.dtype=bf16", "method.rank=2", "method.init_rank=4", "method.final=6")
    run = composed("method=adalora", "engine=zero0", *words)
    _, engine = train(run, steps=16, lr=0.003)
    assert sum(found_by(run, engine, context_for(run, engine, 16))["ranks"].values()) == 2 * 28
    names = [name for name in sorted(engine.among) if "lora_E" in name]
    masters = {name: engine.read_state(name)["master"] for name in names}
    assert all(torch.equal(masters[name] == 0, engine.read_weight(name) == 0) for name in names)
    assert {name.split(".")[-2] for name in engine.among} == {"lora_A", "lora_B", "lora_E"}


def test_importance_in_bf16_is_that_of_fp32():
    """Of clipped gradients: the optimizer scales fp32 ones in place and bf16 ones in a copy."""
    seen = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        options = {"target_rank": 1, "num_steps": 9, "warmup": 0, "final": 0, "allocate_every": 1}
        options |= {"beta_sensitivity": 0.85, "beta_uncertainty": 0.85}
        shapes = {"right": (4, 6), "values": (4, 1), "left": (5, 4)}
        sides = {role: torch.nn.Parameter(torch.randn(shape).bfloat16().to(dtype)) for role, shape in shapes.items()}
        optimizer = RankAdamW([{"params": [p], "role": role, **options} for role, p in sides.items()], lr=0.01)
        for _ in range(5):
            for parameter in sides.values():
                parameter.grad = torch.randn(parameter.shape).bfloat16().to(dtype)
            optimizer.gradient_scale = 0.25
            optimizer.step()
        seen[dtype] = [optimizer.state[p]["sensitivity"] for p in sides.values()]
    for high, low in zip(*seen.values(), strict=True):
        torch.testing.assert_close(low, high, atol=1e-6, rtol=1e-5)


def test_a_penalty_counts_once_whatever_the_micro_batches():
    weights = []
    for micro_batches in (1, 2, 4):
        run = composed("method=adalora", "engine=zero0", *SETTINGS["adalora"])
        engine = engine_for(run, micro_batches, steps=8)
        ctx = context_for(run, engine, 8)
        for step in range(8):
            engine.use(run.method.plan(step, ctx))
            engine.step(share(rows(step), 0, 1, micro_batches), 0.003)
        weights.append({name: engine.read_weight(name) for name in engine.among})
        engine.close()
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-6, rtol=0, msg=name)


RUNS = {
    "dora": ["method=dora", "method.rank=2"],
    "adalora": ["method=adalora", "method.rank=1", "method.init_rank=2", "method.warmup=2", "method.final=0.25"],
    "series": ["method=series", "method.size=4"],
    "norms": ["method=lora", "method.rank=2", "method.embeddings=true", "training.norms=true"],
    "norms where the set switches": ["method=lisa", "method.switch_every=4", "training.norms=true"],
    "greedy removal": ["method=greedy_ranking", "method.rank=2", "method.removal_batches=1"],
    "ist over parallel": ["method=ist", "method.base=parallel", "method.size=4", "method.update_every=3"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_run_cut_in_two_gives_the_result_of_a_whole_one(words, tmp_path, monkeypatch):
    def execute(name):
        paths = [f"paths.{kind}={tmp_path / name / kind}" for kind in ("outputs", "results")]
        more = ["training.max_steps=16", "training.checkpoint_every=6", "eval=nano", "eval.limit=50"]
        with config.composer():
            run = config.compose([*words, *more, *paths])
        worker.work(Queued(run, config.run_id(run)).write())
        return record.read(run.paths.results, config.run_id(run)).result

    def save_and_die(path, content):
        save(path, content)
        raise RuntimeError("cut")

    save = checkpoint.save
    whole = execute("whole")
    monkeypatch.setattr(checkpoint, "save", save_and_die)
    assert execute("cut").message == "RuntimeError: cut"
    monkeypatch.setattr(checkpoint, "save", save)
    assert whole.status == "ok"
    assert execute("cut") == whole
