"""On a CUDA device: the contract of every method on every engine, bf16 against the CPU, memory of the active set alone.

`make test-gpu` runs them. Written on a machine without a GPU: the tolerances are reckoned, not yet measured.
"""

import gc
import os
from functools import cache

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from layerfit.distributed import process
from layerfit.methods import METHODS
from layerfit.models.finite import first_not_finite
from tests.engines.test_contract import ENGINES, ONE, PAIRS, assert_kept
from tests.helpers.contract import watch
from tests.helpers.tiny import LAYERS, LENGTH, VOCAB, adapted, composed, context_for, engine_over, rows, share

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("tests/gpu needs a CUDA device", allow_module_level=True)
if os.environ.get("DS_ACCELERATOR") != "cuda":
    pytest.skip("tests/gpu needs DS_ACCELERATOR=cuda, as `make test-gpu` sets it", allow_module_level=True)

CUDA = ("engine.device=cuda",)
SAME = 1e-4
"""Largest difference of a loss between engines on one device, in fp32: sums are taken in another order."""
OTHER_DEVICE = {"fp32": 1e-3, "bf16": 0.05}
"""Largest difference of a loss (about 4) between CUDA and CPU. bf16 keeps 8 bits: 0.4% of a logit, in every layer."""
BY_BASE_WEIGHTS = ("full", "lisa", "ist")
"""Methods of which every active tensor moves at every step in bf16 too: as on the CPU (test_contract)."""


@pytest.fixture(scope="module")
def reference():
    """Method -> its report on torch and CUDA, in fp32."""
    return cache(lambda method: watch(method, "torch", extra=CUDA))


@pytest.mark.parametrize(("method", "engine"), PAIRS, ids=[f"{m}-{e}" for m, e in PAIRS])
def test_contract_in_fp32(method, engine, reference):
    report = reference(method) if engine == "torch" else watch(method, engine, extra=CUDA)
    assert_kept(report, method)
    assert report.losses == pytest.approx(reference(method).losses, abs=SAME)
    assert report.scores == pytest.approx(reference(method).scores, rel=0.01, abs=OTHER_DEVICE["fp32"])


@pytest.mark.parametrize(("method", "engine"), PAIRS, ids=[f"{m}-{e}" for m, e in PAIRS])
def test_contract_in_bf16(method, engine):
    """Frozen tensors are the same to the bit."""
    report = watch(method, engine, "bf16", steps=8, extra=CUDA)
    assert report.frozen_moved == []
    assert report.leaked_optimizers == 0
    assert report.resident == pytest.approx(1.0, abs=0.02)
    if method in BY_BASE_WEIGHTS:
        assert report.active_still == []
        assert report.wrong_blocks == []


@pytest.mark.parametrize("dtype", OTHER_DEVICE)
@pytest.mark.parametrize("method", [ONE] if ONE else ["full", "lora", "lisa", "ist"])
def test_losses_are_those_of_the_cpu(method, dtype):
    here, there = (watch(method, "torch", dtype, steps=8, extra=extra) for extra in (CUDA, ()))
    assert here.losses == pytest.approx(there.losses, abs=OTHER_DEVICE[dtype])


def wide_llama(dtype: torch.dtype) -> LlamaForCausalLM:
    """Some megabytes: the allocator rounds to 512 bytes, which would count in a tiny model."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
    )
    return LlamaForCausalLM(shape).to(dtype)


def state_bytes(method: str, engine_name: str, dtype: str, switches: int = 0) -> tuple[int, int]:
    """Bytes on the device that the optimizer took, after some switches; and the active parameters, in elements.

    Counted with everything allocated before it taken off, and without gradients.
    """
    settings = ["method.num_active=1", "method.switch_every=1"] if method == "lisa" else []
    words = (f"method={method}", f"engine={engine_name}", f"training.dtype={dtype}", *CUDA, *settings)
    run = composed(*words)
    process.start(process.device_for("cuda"), run.engine.stage)
    model = wide_llama(torch.float32 if dtype == "fp32" else torch.bfloat16).to("cuda")
    engine = engine_over(run, adapted(run, model))
    context = context_for(run, engine, switches + 1)
    gc.collect()
    before = torch.cuda.memory_allocated()
    for step in range(switches + 1):
        engine.use(run.method.plan(step, context))
        engine.step(share(rows(step), engine.rank, engine.world, engine.micro_batches), 0.003)
    for parameter in engine.parameters.values():
        parameter.grad = None
    gc.collect()
    held = torch.cuda.memory_allocated() - before
    active = sum(getattr(p, "ds_numel", p.numel()) for n, p in engine.parameters.items() if n in engine.active)
    engine.close()
    return held, active


@pytest.mark.parametrize(("dtype", "bytes_each"), [("fp32", 8), ("bf16", 12)])
@pytest.mark.parametrize("engine", ["torch", "zero0"])
@pytest.mark.parametrize("method", ["full", "lisa"])
def test_optimizer_state_is_of_the_active_set_alone(method, engine, dtype, bytes_each):
    """Two moments in fp32; with bf16 weights a master too. After three switches as after none."""
    for switches in (0, 3):
        held, active = state_bytes(method, engine, dtype, switches)
        assert held == pytest.approx(bytes_each * active, rel=0.05)


@pytest.mark.parametrize("engine", [e for e in ENGINES if e in ("zero1", "zero2", "zero3")])
def test_sharded_state_is_of_the_active_set_alone(engine):
    """DeepSpeed holds buffers of its own beside, so that it is compared with the whole model's."""
    (lisa, some), (full, every) = (state_bytes(method, engine, "bf16", 3) for method in ("lisa", "full"))
    assert some < 0.4 * every
    assert lisa < 0.6 * full


def test_every_method_that_trains_is_held_to_it():
    assert {method for method, _ in PAIRS} == ({ONE} if ONE else {m for m, cls in METHODS.items() if cls.trains})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_found_anywhere(dtype, value):
    """The largest magnitude is taken by many threads: each of them has to hand a NaN on."""
    module = torch.nn.Linear(300, 700, device="cuda", dtype=dtype)
    assert first_not_finite(module) is None
    for place in (0, 1, 12_345, 209_999):
        kept = module.weight.detach().view(-1)[place].clone()
        module.weight.data.view(-1)[place] = value
        assert first_not_finite(module) == "weight"
        module.weight.data.view(-1)[place] = kept
