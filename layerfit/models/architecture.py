"""Differences between architectures in transformers.

Loss and batches are the same for all models: no dropout, and a forward that takes `position_ids`, `logits_to_keep` and
the boolean mask of packed rows. Models that differ are adapted here, or refused with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfit.anatomy import ARCHITECTURES, check_config, read_parts
from layerfit.errors import UserError
from layerfit.models.metadata import read_object

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layerfit.anatomy import Anatomy
    from layerfit.config.schema import ModelConfig

_FROM_MASK = "build_alibi_tensor"
"""BLOOM's method that makes its position bias (ALiBi) from the mask; replaced by one that handles packed rows too."""


_ADAPTERS = ("adapter_config.json", "bottleneck.json")
_UNREADABLE = {
    "quantization_config": "its weights are quantized; give the model in full precision",
    "transformers_weights": "it names its weights' file itself; rename that to model.safetensors and remove the key",
}
"""Keys of a config.json with which the weights are not what the files' headers say."""


def model_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's `config.json`, its sizes checked.

    Raises:
        UserError: if there is none, it cannot be read, or the folder holds an adapter and not a model.
    """
    # transformers would follow the file to the base model that it names, wherever that is.
    if (adapter := next((name for name in _ADAPTERS if (folder / name).exists()), None)) is not None:
        raise UserError(f"{folder} holds an adapter ({adapter}), not a model; {_instead(folder, adapter)}")
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder} has no config.json; give a folder written by `save_pretrained`")
    config = read_object(path)
    check_config(config, str(path))
    if (key := next((key for key in _UNREADABLE if config.get(key) is not None), None)) is not None:
        raise UserError(f"{path} has {key}: {_UNREADABLE[key]}")
    return config


def _instead(folder: Path, adapter: str) -> str:
    """Return what to give in place of an adapter's folder."""
    if adapter == _ADAPTERS[1]:
        return "give its base model's folder (bottlenecks cannot be merged into weights)"
    base = read_object(folder / adapter).get("base_model_name_or_path") or "its base model"
    return f"merge it into {base!s:.200} (PEFT's merge_and_unload, then save_pretrained) and give that folder"


def read_anatomy(model: ModelConfig, source: str | Path) -> Anatomy:
    """Return a model's module paths: from `conf/model`, and where those are null, from `config.json`.

    The file is fetched from the hub if there is no local copy.

    Raises:
        UserError: if some remain unknown, naming them.
    """
    if not model.open_parts():
        return model.anatomy()
    if isinstance(source, Path):
        config = model_config(source)
    else:
        config = transformers_config(model, source).to_dict()
        check_config(config, f"{source}: config.json")
    found = read_parts(config)
    if missing := model.open_parts(found):
        kind, known = config.get("model_type"), ", ".join(sorted(ARCHITECTURES))
        why = "lacks values" if kind in ARCHITECTURES else f"is of an unknown architecture (known: {known})"
        fields = ", ".join(f"model.{name}" for name in missing)
        raise UserError(f"{source}: its config.json, model_type={kind}, {why}; set {fields}")
    return model.anatomy(found)


def describe_library_error(error: Exception) -> str:
    """Return what a library says of a file, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def revision(model: ModelConfig, source: str | Path) -> str:
    """Return the revision to request from the hub; for a folder the default, which is ignored."""
    return model.revision or "main" if isinstance(source, str) else "main"


def transformers_config(model: ModelConfig, source: str | Path) -> Any:
    """Return the configuration that transformers reads from a folder, or from the hub.

    Raises:
        UserError: if there is none, or transformers cannot read it.
    """
    from transformers import AutoConfig

    if isinstance(source, Path):
        model_config(source)
    try:
        return AutoConfig.from_pretrained(str(source), revision=revision(model, source), trust_remote_code=False)
    except Exception as error:  # each key of the file has its own way to be wrong: AttributeError, TypeError, ...
        raise UserError(f"model={model.name}: no configuration in {source}: {describe_library_error(error)}") from error


def prepare(model: ModelConfig, config: Any) -> str:
    """Return the attention implementation for a transformers configuration, and set its dropout to zero.

    Raises:
        UserError: if there is no causal language model for it, or its forward lacks an argument that training passes.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise UserError(f"model={model.name}: transformers has no causal language model of {config.model_type!r}")
    takes = inspect.signature(kind.forward).parameters
    wanted = ["logits_to_keep"] + ([] if config.model_type == "bloom" else ["position_ids"])
    if missing := [name for name in wanted if name not in takes]:
        raise UserError(
            f"model={model.name}: {kind.__name__} takes no {' and no '.join(missing)}, which training passes; "
            "this architecture needs an adaptation in layerfit/models/architecture.py"
        )
    # Also models published with dropout (OPT: 0.1): it costs activation memory, and makes the loss depend on
    # micro-batches and ranks, so that methods could not be compared.
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float | int) and not isinstance(value, bool):
            setattr(config, name, 0.0)
    return "sdpa" if kind._supports_sdpa else "eager"


def check_loading(model: ModelConfig, loading: dict[str, Any]) -> None:
    """Raise UserError if weights are missing or of another shape: transformers initialises them at random."""
    if other := sorted(loading.get("mismatched_keys", ())):
        name, there, wanted = other[0]
        raise UserError(
            f"model={model.name}: {name} of the checkpoint is {list(there)} and its config.json makes it "
            f"{list(wanted)}; copy both from one model"
        )
    wrong = sorted(map(str, loading.get("missing_keys", ())))
    if wrong:
        raise UserError(
            f"model={model.name}: the checkpoint lacks {len(wrong)} weights, the first {wrong[0]}; copy it again"
        )


def check_shape(model: ModelConfig, anatomy: Anatomy, module: nn.Module) -> None:
    """Raise UserError unless the module has the parts of `anatomy`, and no weight outside them."""
    from torch import nn

    def part(key: str, path: str) -> nn.Module:
        try:
            found = module.get_submodule(path)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Module):  # OPT-350M has a final norm that is None
            raise UserError(f"model.{key}={path} is not a module of {type(module).__name__}; see conf/model")
        return found

    blocks = part("blocks", anatomy.blocks)
    count = len(blocks) if isinstance(blocks, nn.ModuleList) else None
    if count != anatomy.num_layers:
        raise UserError(f"model.num_layers={anatomy.num_layers} but {anatomy.blocks} of model={model.name} has {count}")
    for key in ("embedding", "norm", "head"):
        part(key, getattr(anatomy, key))
    for path in anatomy.beside_embedding:
        part("beside_embedding", path)
    for index in range(anatomy.num_layers):
        for name in anatomy.linear:
            if not hasattr(part("linear", f"{anatomy.blocks}.{index}.{name}"), "weight"):
                raise UserError(f"model.linear: {anatomy.blocks}.{index}.{name} has no weight; see conf/model")
        for name in set(anatomy.norms or ()) - set(anatomy.beside_embedding):
            part("norms", f"{anatomy.blocks}.{index}.{name}")
    for name, _ in module.named_parameters():
        if anatomy.unit(name) is None and not anatomy.parts(name):
            raise UserError(
                f"model={model.name}: {name} is in no part, so no method could train it; "
                "add its module to model.beside_embedding"
            )
    _check_tie(model, anatomy, module)
    positions, wanted = getattr(module.config, "max_position_embeddings", None), anatomy.max_positions
    if positions is not None and wanted is not None and positions < wanted:
        raise UserError(f"model.max_positions={wanted} but model={model.name} has {positions} positions")


def _check_tie(model: ModelConfig, anatomy: Anatomy, module: nn.Module) -> None:
    """Raise UserError if the head is tied to the embedding but not so in `conf/model`."""
    embedding, head = anatomy.embedding, anatomy.head
    tied = getattr(module.get_submodule(head), "weight", None) is getattr(
        module.get_submodule(embedding), "weight", False
    )
    if tied and head != embedding:
        raise UserError(
            f"model.head={head} but model={model.name} ties its head to its embedding; set model.head={embedding}"
        )


def accept_packed_rows(module: Any) -> None:
    """Make a model without SDPA handle the [B, 1, T, T] boolean mask of packed rows.

    Eager attention adds the mask to its scores, so True would add 1. BLOOM also makes its ALiBi bias from a [B, T]
    mask.
    """
    if module.config._attn_implementation != "eager":
        return
    decoder = module.base_model
    decoder.register_forward_pre_hook(_additive_mask, with_kwargs=True)
    if hasattr(decoder, _FROM_MASK):
        setattr(decoder, _FROM_MASK, partial(_alibi, getattr(decoder, _FROM_MASK)))


def _additive_mask(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Return a forward's arguments with an additive mask: 0 for True, the dtype's minimum for False."""
    import torch

    mask = kwargs.get("attention_mask")
    if mask is None or mask.dim() != 4 or mask.dtype != torch.bool:
        return None
    dtype = next(decoder.parameters()).dtype
    added = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    return args, kwargs | {"attention_mask": added}


def _alibi(original: Callable[..., Tensor], mask: Tensor, num_heads: int, dtype: Any) -> Tensor:
    """Return BLOOM's bias, [B * heads, 1, T]: slope of the head (Press et al., arXiv:2108.12409) times position.

    For packed rows the position counts from the start of the example: the number of tokens it attends to, less one.
    """
    import torch

    if mask.dim() == 2:
        return original(mask, num_heads, dtype)
    # The softmax is invariant to the origin of positions, but large ones would lose precision in bf16.
    positions = (mask == 0).sum(-1) - 1  # [B, 1, T]
    slopes = original(torch.ones(1, 2, device=mask.device), num_heads, torch.float32)[:, 0, 1]  # the bias at position 1
    return (slopes[None, :, None] * positions).flatten(0, 1)[:, None].to(dtype)


def checkpoint_activations(model: Any) -> None:
    """Recompute a model's blocks in backward instead of storing their activations."""
    # Re-entrant checkpointing silently drops gradients of blocks whose input needs none.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # transformers makes the embedding's output require gradients: frozen blocks below the lowest active one would be
    # recomputed and back-propagated through.
    model.disable_input_require_grads()
