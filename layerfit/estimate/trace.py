"""Trace one training step on the meta device: which tensors autograd saves, and the FLOPs of its operators.

The model's own forward, the training loss and its backward run on torch's meta device, where operators only work out
shapes. Attention there would fall back to the plain formula, which saves the scores of all pairs of tokens, so the
fused kernel is called instead. The CPU's and the GPU's save the same tensors: queries, keys, values, output, the
log-sum-exp of the scores in fp32 and, with packed rows, the mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from layerfit.data.batches import Batch
from layerfit.engines.loss import loss_sum

_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Trace:
    """The cost of one micro-batch.

    kept: bytes saved for backward, without the model's own tensors. largest: the largest share of them that one block
    saves. forward, step: FLOPs of the forward pass, and of forward and backward.
    """

    kept: float
    largest: float
    forward: float
    step: float


class _Meta(TorchFunctionMode):
    """Answers the tests of values that a meta tensor cannot answer.

    Every truth value is True (no row without a mask is packed), and the first `columns` positions have targets.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and args[0].is_meta:
            return True
        if func is Tensor.nonzero and args[0].is_meta:
            return torch.empty(self.columns, 1, dtype=torch.long, device="meta")
        return func(*args, **(kwargs or {}))


@contextmanager
def _functions(linear: Any) -> Iterator[None]:
    """Replace torch's attention by the fused kernel, and its linear function by `linear` if given.

    By patching and not by a mode: backward runs in a thread of its own, outside of any mode, and with activation
    checkpointing it recomputes blocks.
    """
    ours = {"scaled_dot_product_attention": fused_attention} | ({} if linear is None else {"linear": linear})
    before = {name: getattr(F, name) for name in ours}
    try:
        for name, function in ours.items():
            setattr(F, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Return attention [B, heads, T, size] by the fused kernel, also with grouped keys and values."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # as torch does before it calls the kernel
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -math.inf)
    out: Tensor = _FUSED(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return out


def _attention_flops(query: Tensor, key: Tensor, *, causal: bool) -> float:
    """Return the FLOPs of the two products of attention; a causal kernel computes half of the pairs of tokens."""
    return 4 * query.numel() * key.shape[2] * (0.5 if causal else 1)


class _Flops(TorchDispatchMode):
    """Sums the FLOPs of matrix products (torch's formulas) and of fused attention, whose backward recomputes scores."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, kernel = func(*args, **kwargs), func._overloadpacket
        if kernel is _FUSED:
            self.total += _attention_flops(args[0], args[1], causal=args[4] if len(args) > 4 else False)
        elif kernel is _FUSED_BACKWARD:
            self.total += 2.5 * _attention_flops(args[1], args[2], causal=args[7])
        elif kernel in flop_registry:
            self.total += flop_registry[kernel](*args, **kwargs, out_val=out)
        return out


@dataclass
class _Kept:
    """Storages that autograd holds now, by address: their bytes and number of holders. own: the model's storages."""

    own: set[int]
    held: dict[int, list[int]] = field(default_factory=dict)

    def pack(self, tensor: Tensor) -> Any:
        """Hold a tensor for backward."""
        storage = tensor.untyped_storage()
        return tensor if storage._cdata in self.own else _Holder(tensor, self.held)

    @property
    def total(self) -> int:
        """Bytes held."""
        return sum(size for size, _ in self.held.values())


class _Holder:
    """A saved tensor; once autograd frees it, its bytes are no longer counted."""

    def __init__(self, tensor: Tensor, held: dict[int, list[int]]) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self.held, self.address = tensor, held, storage._cdata
        held.setdefault(self.address, [storage.nbytes(), 0])[1] += 1

    def __del__(self) -> None:
        self.held[self.address][1] -= 1
        if not self.held[self.address][1]:
            del self.held[self.address]


def _unpack(held: Any) -> Tensor:
    return held.tensor if isinstance(held, _Holder) else held


@contextmanager
def only(model: nn.Module, path: str, chosen: list[int]) -> Iterator[nn.ModuleList]:
    """Reduce a model to the chosen of its blocks, some possibly twice; restore all of them on exit."""
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    few = nn.ModuleList(blocks[i] for i in chosen)
    model.set_submodule(path, few)
    try:
        yield few
    finally:
        model.set_submodule(path, blocks)


@contextmanager
def _measured(blocks: nn.ModuleList, kept: _Kept, found: list[int]) -> Iterator[None]:
    """Append the bytes that each block adds to the saved tensors."""
    start: list[int] = []

    def before(*_: Any) -> None:
        start.append(kept.total)

    def after(*_: Any) -> None:
        found.append(kept.total - start.pop())

    distinct = dict.fromkeys(blocks)
    hooks = [hook for b in distinct for hook in (b.register_forward_pre_hook(before), b.register_forward_hook(after))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def empty_batch(rows: int, length: int, *, packed: bool) -> Batch:
    """Return a micro-batch on the meta device, of `rows` rows of `length` tokens."""
    ids = torch.empty(rows, length, dtype=torch.long, device="meta")
    mask = torch.empty(rows, 1, length, length, dtype=torch.bool, device="meta") if packed else None
    return Batch(ids, torch.empty_like(ids), mask, torch.empty_like(ids), torch.empty_like(ids, dtype=torch.bool))


def trace(
    model: nn.Module, blocks: nn.ModuleList, batch: Batch, *, columns: int, penalty: Any, linear: Any = None
) -> Trace:
    """Return the cost of one forward and backward pass of a model on the meta device.

    columns: positions whose logits are computed. penalty: a function of the model that returns a term of the loss, or
    None. linear: replaces torch's linear function.
    """
    kept = _Kept({p.untyped_storage()._cdata for p in model.parameters()})
    flops, each = _Flops(), list[int]()
    with _functions(linear), _Meta(columns), flops:
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, _unpack), _measured(blocks, kept, each):
            loss, added = loss_sum(model, batch), penalty(model)
            objective = loss if added is None else loss + added
        total, forward = kept.total, flops.total
        objective.backward()
    for parameter in model.parameters():
        parameter.grad = None
    return Trace(total, max(each), forward, flops.total)
