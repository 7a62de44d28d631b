"""`make estimate` against published parameter counts, byte counts and FLOPs, committed records, and real engines."""

import json

import pytest
import torch
from torch import nn

from layerfit.adapters.masked import LARGEST_DRAWN, draw_indices, indices_for
from layerfit.config import ROOT, compose, composer
from layerfit.config.schema import RunConfig
from layerfit.engines.base import Engine
from layerfit.estimate.cost import MicroBatch, Tracer, flops, memory, recorded_memory
from layerfit.estimate.held import buffer_bytes
from layerfit.estimate.rows import course, read_data, received, rows
from layerfit.estimate.show import Speed, fits
from layerfit.estimate.subject import Subject, describe
from layerfit.methods.base import Plan
from layerfit.models.architecture import checkpoint_activations
from layerfit.models.hub import load_model
from layerfit.report import build
from layerfit.run.measure import Memory as Measured
from layerfit.run.measure import memory_of, watch_activations
from tests.helpers import tiny
from tests.helpers.tiny_models import TINY, run_of, write_model
from tests.models.test_model_shapes import PUBLISHED

MIRROR = ROOT.parent / "shared" / "hub"
ONE = MicroBatch(1, 1024, 1024)
SEVEN = ["dataset=alpaca_gpt4", "eval=none", "engine=torch", "training.dtype=bf16", "training.max_length=1024"]
LORA = ["method=lora", "method.rank=128"]
LISA = ["method=lisa", "method.num_active=2"]
PURE = "optim.precision=pure_bf16"
TRACER = Tracer()
POSITIONS = "model.max_positions=64"  # the tiny Llama's
COUNTED = ("weights", "gradients", "optimizer", "activations")


def subject(model: str, *overrides: str) -> Subject:
    with composer():
        made = describe(compose([f"model={model}", *SEVEN, *overrides]))
    assert isinstance(made, Subject), made
    return made


def plan_of(made: Subject, step: int = 0) -> Plan:
    return course(made, 100).plans[step]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    """By the index of the weight files; conf/model says what the published config.json says."""
    config, number = PUBLISHED[name]
    made = subject(name, "method=full", "training.max_length=512")
    assert made.number(plan_of(made)) == number
    assert {key: getattr(made.model.config, RENAMED.get(key, key)) for key in config} == config


RENAMED = {"n_embed": "hidden_size"}
"""Keys of a config.json that transformers' class holds under another name."""


@pytest.mark.skipif(not MIRROR.is_dir(), reason="no mirror beside the project")
@pytest.mark.parametrize("name", ["llama2_7b", "mistral_7b", "tinyllama"])
def test_shapes_are_those_of_the_mirrors_config(name):
    known, read = (subject(name, "method=full", *hub) for hub in ([], [f"hub.mirror={MIRROR}"]))
    assert known.shapes == read.shapes


@pytest.mark.parametrize(
    ("model", "overrides", "gigabytes"),
    [
        # By hand: 6.7384e9 x (2 + 2 + 4) bytes; E + H + 2 layers: 6.7384e9 x 2 + 666.9e6 x (2 + 4).
        ("llama2_7b", ["method=full", PURE], 53.9),
        ("llama2_7b", [*LISA, PURE], 17.5),
        ("llama2_7b", ["method=full"], 107.8),  # + 14 bytes: gradient, master and moments in fp32
        ("llama2_7b", LISA, 22.8),
        ("llama2_7b", LORA, 18.6),  # 319.8e6 x 16 bytes beside the weights
        ("llama2_7b", ["method=galore", "method.rank=128", PURE], 29.0),  # low-rank moments and bases: 0.52e9 x 2
        ("mistral_7b", ["method=full", PURE], 57.9),
        ("mistral_7b", [*LISA, PURE], 18.7),
        ("tinyllama", [*LISA, PURE], 3.5),
        ("tinyllama", ["method=full"], 17.6),
    ],
)
def test_bytes_without_activations_are_the_floors_worked_out_by_hand(model, overrides, gigabytes):
    made = subject(model, *overrides)
    found = memory(made, plan_of(made), ONE, TRACER)
    assert (found.total - found.activations) / 1e9 == pytest.approx(gigabytes, abs=0.051)


@pytest.mark.parametrize(
    ("overrides", "kib"),
    [
        # Measured with saved_tensors_hooks on one LLaMA-2-7B layer, transformers 5.23, SDPA, bf16.
        (["method=full"], 182.1),
        (["method=static", "method.units=[layers.31]", "method.always=[embedding]"], 128.6),  # layers 0..30 are frozen
        (["method=lora", "method.rank=8"], 166.2),
        (LORA, 167.9),
    ],
)
def test_activations_of_a_layer_are_the_measured_ones(overrides, kib):
    made = subject("llama2_7b", *overrides)
    kinds = made.shape_of(plan_of(made))
    two, three = (TRACER.part(made, kinds, some, ONE, checkpointing=False) for some in ([0, 1], [0, 1, 1]))
    assert (three.kept - two.kept) / 1024**2 == pytest.approx(kib, abs=0.06)
    assert three.largest / 1024**2 == pytest.approx(kib, abs=0.6)


@pytest.mark.parametrize(
    ("overrides", "gigaflops"),
    [
        # By hand: 13.21 (linear) + 0.27 (causal attention at 1,024) forward; the same for inputs, attention 2.5 times;
        # weights: all 13.21, two layers and the head 1.07, adapters 3 x 0.64. With the embedding frozen, the lowest
        # layer's queries, keys and values have no input to pass a gradient to: 0.10 less.
        (["method=full"], 40.6),
        (LORA, 29.2),
        (LISA, 28.4),
        # + 13.22: the blocks' forward, - 2.89: the last product of a block, which nothing in backward needs.
        (["method=full", "training.activation_checkpointing=true"], 50.9),
        ([*LISA, "training.activation_checkpointing=true"], 38.8),
        (["method=full", "training.packing=true"], 41.5),  # + 0.94: with a mask, all pairs of tokens
    ],
)
def test_flops_of_a_token_are_those_worked_out_by_hand(overrides, gigaflops):
    made = subject("llama2_7b", *overrides)
    assert flops(made, plan_of(made), ONE, TRACER).step / 1e9 == pytest.approx(gigaflops, abs=0.06)


def test_flops_of_adapters_outside_the_blocks_are_those_worked_out_by_hand():
    """Layer 0's queries, keys and values get an input's gradient; B of the embedding, A and B of the head: thrice."""
    inside, outside = (subject("llama2_7b", *LORA, f"method.embeddings={flag}") for flag in ("false", "true"))
    found = [flops(made, plan_of(made), ONE, TRACER).step for made in (inside, outside)]
    assert found[1] - found[0] == 3 * 2 * (4096**2 + 128 * 4096) + 3 * 2 * 128 * (4096 + 4096 + 32000)


def test_backward_stops_at_the_lowest_unit_that_trains():
    """The top block alone: its own inputs and weights; nothing below it keeps anything."""
    top, bottom = (subject("llama2_7b", "method=static", f"method.units=[layers.{i}]") for i in (31, 0))
    (high, low), forward = (flops(m, plan_of(m), ONE, TRACER) for m in (top, bottom)), 2 * 6.6e9
    assert forward < high.step < 1.1 * high.forward
    assert low.step > 2 * low.forward
    kept = [recorded_memory(m, plan_of(m), ONE, TRACER).activations for m in (bottom, top)]
    assert kept[0] / kept[1] > 10


@pytest.mark.parametrize("name", ["nano_main", "nano_location"])
def test_the_committed_records_are_met_to_the_byte(name):
    """Answers of the embedded world, on rows of 6 and 7 tokens, need logits at 3 positions."""
    with composer():
        loaded = build.load(name)
    found = [(cell, loaded.store.records.get(cell.run_id)) for cell in loaded.cells if cell.seed == 0]
    compared = 0
    for cell, record in found:
        if record is None:
            continue
        made = describe(cell.run, received(cell.run, loaded.store.records))
        assert isinstance(made, Subject)
        predicted = recorded_memory(made, course(made, 1).plans[0], MicroBatch(64, 7, 3), TRACER)
        for part in COUNTED:
            assert getattr(predicted, part) == record.measured.peak_memory_bytes[part], (cell.name, part)
        compared += 1
    assert compared > 4


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lift"],
        ["method=lisa", "method.always=[]", "method.num_active=3"],
        ["method=ist", "method.rank=2"],
        ["method=static", "method.units=[layers.2.mlp.up_proj,layers.5,layers.9]"],
        ["method=full", "training.activation_checkpointing=true"],
    ],
)
def test_one_block_of_each_kind_tells_what_all_blocks_keep_and_compute(overrides):
    made = subject("tinyllama", *overrides)
    checkpointing, shape = made.run.training.activation_checkpointing, MicroBatch(3, 9, 5)
    kinds, tracer = made.shape_of(plan_of(made)), Tracer()
    quick = tracer.whole(made, kinds, shape, checkpointing=checkpointing)
    assert max(len(key[1]) for key in tracer.known) < 22
    real = tracer.part(made, kinds, range(22), shape, checkpointing=checkpointing)
    assert (quick.kept, quick.forward, quick.step) == (real.kept, real.forward, real.step)


@pytest.fixture(autouse=True)
def plain_linear(monkeypatch):
    """DeepSpeed's ZeRO-3 replaces torch's linear function for the whole process: not for the next test."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shape of the tiny Llama of the contract tests, as a model's folder."""
    path = tmp_path_factory.mktemp("tiny")
    (path / "config.json").write_text(json.dumps(tiny.tiny_llama().config.to_dict()))
    return path


def counted_in_a_step(run: RunConfig, engine: Engine) -> Measured:
    """What a record counts of one real step."""
    run.method.plan(0, tiny.context_for(run, engine, 20))
    engine.use(run.method.plan(0, tiny.context_for(run, engine, 20)))
    counted = Measured()
    with watch_activations(engine, counted):
        engine.step([tiny.rows(0)], 0.003)
    memory_of(engine, counted)
    return counted


def estimated(run: RunConfig) -> tuple[Subject, Plan]:
    units = run.model.anatomy().modules()
    made = describe(run, [{"scores": {u: float(i * 5 % 7) for i, u in enumerate(units)}}])
    assert isinstance(made, Subject), made
    return made, course(made, 20).plans[0]


CASES = {name: (name, *settings) for name, settings in tiny.SETTINGS.items()} | {
    "embedding and head have adapters too": ("lora", "method.rank=2", "method.embeddings=true"),
    "dropout": ("lora", "method.rank=2", "method.dropout=0.1"),
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_every_method_is_counted_as_a_real_step_is(folder, case, dtype):
    """Against one step of the real engine: names, shapes and dtypes of all parameters, and every component's bytes."""
    method, *settings = CASES[case]
    run = tiny.composed(f"method={method}", "engine=torch", f"training.dtype={dtype}", POSITIONS, *settings)
    run.model.path = str(folder)
    made, plan = estimated(run)
    engine = tiny.engine_for(run, micro_batches=1)
    assert made.among == engine.among
    real = {name: (p.shape, p.dtype) for name, p in engine.parameters.items()}
    assert {name: (p.shape, p.dtype) for name, p in made.model.named_parameters()} == real
    counted = counted_in_a_step(run, engine)
    found = recorded_memory(made, plan, MicroBatch(tiny.ROWS, tiny.LENGTH, tiny.LENGTH - 4), TRACER)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(found, part) == counted.peak[part], part
    low, high = UNLIKE.get(method, (1, 1))
    assert low <= found.activations / (counted.peak["activations"] or 0) <= high
    engine.close()


UNLIKE = {"dora": (0.87, 1)}
"""Predicted over counted: a record counts the identity matrices that DoRA's norm is made of; forward frees them."""


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_architecture_is_counted_as_a_real_step_is(tmp_path, name, method):
    write_model(tmp_path / name, TINY[name])
    run = run_of(tmp_path, name, f"method={method}", "engine=torch", *tiny.SETTINGS[method])
    made, plan = estimated(run)
    model = tiny.adapted(run, load_model(run.model, run.hub, run.training.dtype))
    engine = tiny.engine_over(run, model, micro_batches=1)
    counted = counted_in_a_step(run, engine)
    found = recorded_memory(made, plan, MicroBatch(tiny.ROWS, tiny.LENGTH, tiny.LENGTH - 4), TRACER)
    assert {part: getattr(found, part) for part in COUNTED} == {part: counted.peak[part] for part in COUNTED}


@pytest.mark.parametrize(
    ("method", "override"),
    [
        ("full", "engine=zero2"),
        ("galore", "engine=zero0"),
        ("full", "training.activation_checkpointing=true"),
        ("lisa", "engine=zero3"),
    ],
)
def test_sharding_and_checkpointing(folder, method, override):
    """ZeRO-3 keeps inputs of frozen modules too, and a record of it counts the gathered weights as activations."""
    run = tiny.composed(f"method={method}", override, POSITIONS, *tiny.SETTINGS[method])
    run.model.path = str(folder)
    made, plan = estimated(run)
    engine = tiny.engine_for(run, micro_batches=1)
    if run.training.activation_checkpointing:
        checkpoint_activations(engine.module)
    counted = counted_in_a_step(run, engine)
    shape = MicroBatch(tiny.ROWS, tiny.LENGTH, tiny.LENGTH - 4)
    found = recorded_memory(made, plan, shape, TRACER)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(found, part) == counted.peak[part], part
    gathered = found.weights if run.engine.stage == 3 else 0
    assert found.activations + gathered == counted.peak["activations"]
    engine.close()


def test_ranks_share_what_zero_shards():
    """Weights at stage 3, gradients from 2, optimizer state from 1 on."""
    shared = {}
    for stage in (1, 2, 3):
        one, four = (
            recorded_memory(made, plan_of(made), MicroBatch(1, 8, 8), TRACER)
            for made in (
                subject("tinyllama", "method=full", f"engine=zero{stage}", f"engine.ranks={n}") for n in (1, 4)
            )
        )
        shared[stage] = [round(getattr(one, part) / getattr(four, part), 3) for part in COUNTED]
    assert shared == {1: [1, 1, 4, 1], 2: [1, 4, 4, 1], 3: [4, 4, 4, 1]}


def test_with_checkpointing_the_block_that_is_made_again_is_held_too():
    overrides = ("tinyllama", "method=full", "training.activation_checkpointing=true")
    made = subject(*overrides)
    plan, block = plan_of(made), made.shape_of(plan_of(made))
    found, counted = (each(made, plan, ONE, TRACER) for each in (memory, recorded_memory))
    again = TRACER.part(made, block, [0], ONE, checkpointing=False).largest
    assert found.activations - counted.activations == again > 0.3 * counted.activations
    assert found.weights - counted.weights == buffer_bytes(made) > 0


def test_of_large_matrices_random_masks_take_the_mean():
    """Small ones, as in all nano models, are really drawn."""
    with torch.device("meta"):
        small, large = nn.Linear(100, 50).weight, nn.Linear(3000, 1500).weight
    drawn = draw_indices("x", small.shape, share=0.1, seed=3)
    assert torch.equal(indices_for("x", small, share=0.1, seed=3), drawn)
    assert large.numel() > LARGEST_DRAWN
    assert len(indices_for("x", large, share=0.1, seed=3)) == 450_000


def test_tokens_come_from_a_record_of_the_same_data_else_they_are_a_bound():
    with composer():
        loaded = build.load("nano_main")
    run, cells = loaded.cells[1].run, {cell.run_id: cell.run for cell in loaded.cells}
    known = read_data(run, cells, loaded.store.records)
    assert known.known
    assert known.longest == 7
    assert 64 * 6 < known.tokens < 64 * 7
    bound = read_data(run, cells, {})
    assert (bound.tokens, bound.longest, bound.known) == (64 * 16, 16, False)
    assert "upper bound" in bound.source


def test_a_longer_run_costs_more_and_a_ranking_counts():
    with composer():
        found = {row.label: row for row in rows(build.load("nano_main"), TRACER)}
    assert found["Vanilla"].memory is None
    assert "trains nothing" in (found["Vanilla"].unknown or "")
    assert found["Full FT"].flops > found["LoRA"].flops > found["LISA"].flops
    assert found["ILA"].flops > 1.5 * found["LoRA"].flops
    probed, unprobed = found["IST"].flops, found["LISA"].flops
    assert 0.9 * unprobed < probed < unprobed


def test_fits_and_hours():
    assert Speed(100.0, 0.5, "").hours(3.6e18, ranks=4) == 5  # 3.6e18 / (4 x 1e14 x 0.5) seconds
    assert [fits(gb * 1e9, 24) for gb in (21.0, 22.0, 24.0, 24.1)] == ["yes", "tight", "tight", "no"]


def test_an_unknown_model_is_named_not_guessed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba", "hidden_size": 64}))
    with composer():
        run = compose(["model=nano", f"model.path={tmp_path}"])
        run.model.path = str(tmp_path)
        assert "takes no" in str(describe(run))
        assert "conf/model has no sizes" in str(describe(compose(["model=stories260k"])))
