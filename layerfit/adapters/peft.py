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

    Adapters take the model's dtype, for one precision policy in all methods; PEFT would upcast them to fp32.
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
    """Insert AdaLoRA's adapters into exactly `modules`, as `add_lora` does, with `init_rank` triplets each."""
    config = AdaLoraConfig(
        target_r=rank,
        init_r=init_rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=modules,
        total_step=1,  # required, but only used by PEFT's own rank allocation
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)  # type: ignore[arg-type]
    # In bf16 PEFT 0.21.2 leaves the initial rank, a divisor of the response, trainable.
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
    """Return the adapted layers in the model's order, by unit name, or by part name outside the blocks."""
    # Found by type, not by attribute: since transformers 4.48 attention modules have a `scaling` too.
    found: dict[str, LoraLayer | BottleneckLinear] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer | BottleneckLinear):
            unit = anatomy.unit(name) or min(anatomy.parts(f"{name}."), default=None)
            assert unit is not None, f"adapter outside all parts of the model: {name}"
            found[unit] = module
    return found


def adapter_parameters(model: nn.Module) -> set[str]:
    """Return the names of the adapters' parameters; all others belong to the pretrained model."""
    kinds = LoraLayer | BottleneckLinear
    layers: list[tuple[str, Any]] = [(path, m) for path, m in model.named_modules() if isinstance(m, kinds)]
    return {
        f"{path}.{name}" for path, m in layers for name, _ in m.named_parameters() if not name.startswith("base_layer.")
    }


def weight_updates(model: nn.Module) -> dict[str, Callable[[], torch.Tensor]] | None:
    """Return functions that compute W' - W, by weight name; None for bottlenecks, which change no weight.

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
    """Return the factor of a module or else of its block; 1.0 if `scales` has neither."""
    return scales.get(unit, scales.get(block_of(unit), 1.0))


@contextmanager
def scaled_responses(model: nn.Module, anatomy: Anatomy, scales: Mapping[str, float | torch.Tensor]) -> Iterator[None]:
    """Multiply the response of every adapter by the factor of its unit; the scaling is restored on exit.

    o = m(x) + factor * a(x), with a(x) = (alpha / rank) B A x or a bottleneck's response (IST's response suppression;
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
    """Return whether a model has adapters, in which case only they are saved."""
    return hasattr(model, "peft_config") or bool(bottlenecks(model))


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write the adapters of a trained model (in PEFT's format where it has one), or all weights if it has none."""
    if bottlenecks(model):
        save_bottlenecks(model, folder)
    elif is_adapted(model):  # by default PEFT also saves the frozen matrix of an adapted embedding
        model.save_pretrained(folder, save_embedding_layers=False)  # type: ignore[operator]
    else:
        model.save_pretrained(folder)  # type: ignore[operator]
