"""Adapters beside LoRA against something else than themselves: PEFT's loop, published formulas, hand-counted sizes."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from layerfit.engines.base import set_seed
from tests.test_parity import decays, plain_loop, train
from tests.tiny import SETTINGS, composed, rows, tiny_llama


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
    for unit in run.model.anatomy().shape(0).modules():
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
