"""Adapters inside a model: inserting them with PEFT, scaling their response, saving them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from torch import nn

from layerfit.adapters.bottleneck import ADAPTER, BottleneckLinear, bottlenecks, save_bottlenecks
from layerfit.anatomy import Anatomy, block_of


def add_lora(
    model: nn.Module, modules: list[str], *, rank: int, alpha: float, dropout: float, decomposed: bool = False
) -> nn.Module:
    """Insert LoRA, or DoRA if `decomposed`, into exactly `modules` (full module paths); everything else is frozen.

    Adapters take the model's dtype (PEFT would upcast them to fp32): one precision policy for every method.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        use_dora=decomposed,
        target_modules=modules,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)  # type: ignore[arg-type]


def add_adalora(
    model: nn.Module, modules: list[str], *, rank: int, init_rank: int, alpha: float, dropout: float
) -> nn.Module:
    """Insert AdaLoRA's adapters into exactly `modules`, as `add_lora`, with `init_rank` triplets each.

    PEFT insists on a number of steps, for an allocation of its own that is not used. In bf16 it leaves trainable the
    initial rank, by which a response is divided (0.21.2): it is frozen here.
    """
    config = AdaLoraConfig(
        target_r=rank,
        init_r=init_rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=modules,
        total_step=1,
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)  # type: ignore[arg-type]
    for layer in adapted.modules():
        if isinstance(layer, AdaLoraLayer):
            layer.ranknum[ADAPTER].requires_grad_(False)
    return adapted  # type: ignore[return-value]


def singular_values(model: nn.Module, anatomy: Anatomy) -> dict[str, Any]:
    """Return the parameters E, [init_rank, 1], by unit name."""
    layers: dict[str, Any] = dict(adapted_layers(model, anatomy))
    return {unit: layer.lora_E[ADAPTER] for unit, layer in layers.items()}


def distance_to_orthogonal(model: nn.Module) -> torch.Tensor:
    """Return the mean over all A and B of ||A A^T - 1|| and ||B^T B - 1|| (Frobenius), in fp32."""
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, AdaLoraLayer)]
    sides = [side.float() for layer in layers for side in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].T)]
    products = [side @ side.T for side in sides]
    distances = [torch.linalg.matrix_norm(p - torch.eye(len(p), device=p.device)) for p in products]
    return torch.stack(distances).mean()


def adapted_layers(model: nn.Module, anatomy: Anatomy) -> dict[str, LoraLayer | BottleneckLinear]:
    """Return the adapted layers by unit name, in the model's order; outside the blocks by the part's name.

    By type, never by attribute name: since transformers 4.48 attention modules carry a `scaling` of their own.
    """
    found: dict[str, LoraLayer | BottleneckLinear] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer | BottleneckLinear):
            unit = anatomy.unit(name) or min(anatomy.parts(f"{name}."), default=None)
            assert unit is not None, f"adapter in no part of the model: {name}"
            found[unit] = module
    return found


def adapter_parameters(model: nn.Module) -> set[str]:
    """Return the names of the parameters that came with adapters: all others are the model's own."""
    kinds = LoraLayer | BottleneckLinear
    layers: list[tuple[str, Any]] = [(path, m) for path, m in model.named_modules() if isinstance(m, kinds)]
    return {
        f"{path}.{name}" for path, m in layers for name, _ in m.named_parameters() if not name.startswith("base_layer.")
    }


def weight_updates(model: nn.Module) -> dict[str, Callable[[], torch.Tensor]] | None:
    """Return what makes W' - W of every adapted weight, by its name; None for bottlenecks, which add to no weight.

    (alpha / rank) B A; of an embedding, its transpose; with a magnitude m (DoRA), m (W + s B A) / ||W + s B A|| - W.
    """
    if bottlenecks(model):
        return None
    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, LoraLayer)]
    return {f"{path}.weight": partial(_weight_update, layer) for path, layer in layers}


def _weight_update(layer: Any) -> torch.Tensor:
    update: torch.Tensor = layer.get_delta_weight(ADAPTER)
    if ADAPTER not in layer.lora_magnitude_vector:
        return update
    weight = layer.get_base_layer().weight.float()
    moved = weight + update.float()
    lengths = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
    return layer.lora_magnitude_vector[ADAPTER].weight[:, None] * moved / lengths - weight


def _factor(scales: Mapping[str, Any], unit: str) -> Any:
    """Return the factor of a module: its own, or that of the block it is in; 1.0 if neither is named."""
    return scales.get(unit, scales.get(block_of(unit), 1.0))


@contextmanager
def scaled_responses(model: nn.Module, anatomy: Anatomy, scales: Mapping[str, float | torch.Tensor]) -> Iterator[None]:
    """Multiply the response of every adapter by the factor of its unit; the old scaling always comes back.

    o = m(x) + factor * a(x), with a(x) = (alpha / rank) B A x, or what a bottleneck adds (IST's response suppression;
    ILA's mask).

    Raises:
        KeyError: if `scales` names a unit that has no adapter.
    """
    layers = adapted_layers(model, anatomy)
    blocks = set(map(block_of, layers))
    if unknown := sorted(set(scales) - blocks - set(layers)):
        raise KeyError(f"no adapter in {unknown[:3]}")
    saved = {unit: layer.scaling[ADAPTER] for unit, layer in layers.items()}
    try:
        for unit, layer in layers.items():
            layer.scaling[ADAPTER] = saved[unit] * _factor(scales, unit)
        yield
    finally:
        for unit, layer in layers.items():
            layer.scaling[ADAPTER] = saved[unit]


def is_adapted(model: nn.Module) -> bool:
    """Return whether what was trained of a model is adapters: they alone are saved."""
    return hasattr(model, "peft_config") or bool(bottlenecks(model))


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write a trained model: adapters if it has some (PEFT's files where PEFT knows the kind), all weights if not."""
    if bottlenecks(model):
        save_bottlenecks(model, folder)
    elif is_adapted(model):  # by default PEFT saves the frozen matrix too where an embedding has an adapter
        model.save_pretrained(folder, save_embedding_layers=False)  # type: ignore[operator]
    else:
        model.save_pretrained(folder)  # type: ignore[operator]
