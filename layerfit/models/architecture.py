"""What differs between architectures, once transformers has made a module of one.

Loss and batches are the same for all: a forward that takes `position_ids`, `logits_to_keep` and the boolean mask of
packed rows. What has no dropout, SDPA or positions of its own is brought to that here, or refused by name.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfit.anatomy import ARCHITECTURES, read_parts
from layerfit.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layerfit.anatomy import Anatomy
    from layerfit.config.schema import ModelConfig

_FROM_MASK = "build_alibi_tensor"
"""BLOOM has no positions: a bias by the distance of tokens. Its method, replaced by one that reads packed rows too."""


def model_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's `config.json`.

    Raises:
        UserError: if there is none, or it is not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json; give a model's folder as `save_pretrained` writes it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; copy the model again") from error


def read_anatomy(model: ModelConfig, source: str | Path) -> Anatomy:
    """Return where a model's parts are: as `conf/model` says, and what it leaves null as `config.json` says.

    The network is asked if only it has the file.

    Raises:
        UserError: if some stay open, naming them.
    """
    if not model.open_parts():
        return model.anatomy()
    config = transformers_config(model, source).to_dict() if isinstance(source, str) else model_config(source)
    found = read_parts(config)
    if missing := model.open_parts(found):
        kind, known = config.get("model_type"), ", ".join(sorted(ARCHITECTURES))
        why = "does not say all" if kind in ARCHITECTURES else f"is of an architecture not known here (known: {known})"
        fields = ", ".join(f"model.{name}" for name in missing)
        raise UserError(f"{source}: its config.json, model_type={kind}, {why}; set {fields}")
    return model.anatomy(found)


def revision(model: ModelConfig, source: str | Path) -> str:
    """Return the revision to ask for; a folder has none."""
    return model.revision or "main" if isinstance(source, str) else "main"


def transformers_config(model: ModelConfig, source: str | Path) -> Any:
    """Return the configuration that transformers reads from a folder, or from a hub id by the network.

    Raises:
        UserError: if there is none.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(source), revision=revision(model, source))
    except (OSError, ValueError) as error:
        raise UserError(f"model={model.name}: no configuration in {source}: {str(error).splitlines()[0]}") from error


def prepare(model: ModelConfig, config: Any) -> str:
    """Return the attention kernel for a transformers configuration, and set its dropout to zero.

    Zero, also where it was published with some (OPT: 0.1): dropout costs activation memory, and makes a loss depend on
    micro-batches and ranks, for which no two methods could be compared.

    Raises:
        UserError: if its causal language model does not take what a batch gives it.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise UserError(f"model={model.name}: transformers has no causal language model of {config.model_type!r}")
    takes = inspect.signature(kind.forward).parameters
    wanted = ["logits_to_keep"] + ([] if config.model_type == "bloom" else ["position_ids"])
    if missing := [name for name in wanted if name not in takes]:
        raise UserError(
            f"model={model.name}: {kind.__name__} takes no {' and no '.join(missing)}, which training gives it; "
            "this architecture needs an adaptation in layerfit/models/architecture.py"
        )
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float | int) and not isinstance(value, bool):
            setattr(config, name, 0.0)
    return "sdpa" if kind._supports_sdpa else "eager"


def check_loading(model: ModelConfig, loading: dict[str, Any]) -> None:
    """Raise UserError if weights are missing: transformers would fill them at random without an error."""
    wrong = sorted({str(name) for key in ("missing_keys", "mismatched_keys") for name in loading.get(key, ())})
    if wrong:
        raise UserError(f"model={model.name}: the checkpoint lacks {len(wrong)} weights, {wrong[0]} first")


def check_shape(model: ModelConfig, anatomy: Anatomy, module: nn.Module) -> None:
    """Raise UserError unless the module has the parts that `anatomy` names, and no weight outside them."""
    from torch import nn

    def part(key: str, path: str) -> nn.Module:
        try:
            found = module.get_submodule(path)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Module):  # OPT-350M has a final norm that is None
            raise UserError(f"model.{key}={path} is no module of {type(module).__name__}; see conf/model")
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
                f"model={model.name}: {name} is in no part, so nothing would ever train it; "
                "add its module to model.beside_embedding"
            )
    _check_tie(model, anatomy, module)
    positions, wanted = getattr(module.config, "max_position_embeddings", None), anatomy.max_positions
    if positions is not None and wanted is not None and positions < wanted:
        raise UserError(f"model.max_positions={wanted} but model={model.name} has {positions} positions")


def _check_tie(model: ModelConfig, anatomy: Anatomy, module: nn.Module) -> None:
    """Raise UserError if the head is the embedding's matrix and `conf/model` does not say so."""
    embedding, head = anatomy.embedding, anatomy.head
    tied = getattr(module.get_submodule(head), "weight", None) is getattr(
        module.get_submodule(embedding), "weight", False
    )
    if tied and head != embedding:
        raise UserError(
            f"model.head={head} but model={model.name} ties its head to its embedding; set model.head={embedding}"
        )


def accept_packed_rows(module: Any) -> None:
    """Make a model without SDPA right for the [B, 1, T, T] boolean mask of packed rows.

    Eager attention adds the mask to its scores, and True would be 1. BLOOM, besides, makes its distance bias from a
    [B, T] mask.
    """
    if module.config._attn_implementation != "eager":
        return
    decoder = module.base_model
    decoder.register_forward_pre_hook(_additive_mask, with_kwargs=True)
    if hasattr(decoder, _FROM_MASK):
        setattr(decoder, _FROM_MASK, partial(_alibi, getattr(decoder, _FROM_MASK)))


def _additive_mask(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Return a forward's arguments with 0 for True and the lowest number for False."""
    import torch

    mask = kwargs.get("attention_mask")
    if mask is None or mask.dim() != 4 or mask.dtype != torch.bool:
        return None
    dtype = next(decoder.parameters()).dtype
    added = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    return args, kwargs | {"attention_mask": added}


def _alibi(original: Callable[..., Tensor], mask: Tensor, num_heads: int, dtype: Any) -> Tensor:
    """Return BLOOM's bias, [B * heads, 1, T]: slope of the head (Press et al., arXiv:2108.12409) times position.

    For packed rows the position is counted from the start of the example: how many tokens a token sees, less one. The
    softmax would forgive another origin, rounding to bf16 would not.
    """
    import torch

    if mask.dim() == 2:
        return original(mask, num_heads, dtype)
    positions = (mask == 0).sum(-1) - 1  # [B, 1, T]
    slopes = original(torch.ones(1, 2, device=mask.device), num_heads, torch.float32)[:, 0, 1]  # the bias at position 1
    return (slopes[None, :, None] * positions).flatten(0, 1)[:, None].to(dtype)


def checkpoint_activations(model: Any) -> None:
    """Let a model compute its blocks again in backward instead of keeping what they made.

    transformers makes the embedding's output require gradients, so frozen blocks below the lowest active one would be
    recomputed and back-propagated; and re-entrant checkpointing would silently drop gradients.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.disable_input_require_grads()
