"""One step of a model without numbers, watched: which tensors autograd keeps, and what is multiplied.

The model's own forward, the training loss and its backward run on torch's meta device, where operators work out shapes
alone. Attention there would be that of the plain formula, which keeps the scores of all pairs of tokens; the fused
kernel stands in its place. The one of the CPU and those of a GPU keep the same: queries, keys, values, output, the
logarithm of the scores' sum in fp32 and, where rows are packed, the mask.
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
    """Of one micro-batch. kept: bytes that autograd keeps for backward, beyond the model's own tensors.

    largest: of them, those of the block that keeps most. forward, step: FLOPs, of forward alone and with backward.
    """

    kept: float
    largest: float
    forward: float
    step: float


class _Meta(TorchFunctionMode):
    """Answers a question about numbers that are not there with yes.

    The first `columns` positions have targets, and no row without a mask is packed.
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
    """Put fused attention, and `linear` if there is one, in the place of torch's functions.

    Not by a mode: the thread of a backward, which makes blocks again with checkpointing, would not be in it.
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
    """Return attention [B, heads, T, size] by the fused kernel, of grouped keys and values too."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # as torch does before it calls the kernel
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -math.inf)
    out: Tensor = _FUSED(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return out


def _attention_flops(query: Tensor, key: Tensor, *, causal: bool) -> float:
    """Return the FLOPs of scores and values: of pairs of tokens, and half of them with a causal kernel."""
    return 4 * query.numel() * key.shape[2] * (0.5 if causal else 1)


class _Flops(TorchDispatchMode):
    """Adds up products of matrices (torch's own formulas), and fused attention; backward makes its scores again."""

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
    """Storages that autograd holds at this moment, by address: their bytes, and how often. own: the model's."""

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
    """Keeps a tensor; when autograd lets go of it, so does the count."""

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
    """Let a model have only the chosen of its blocks, some perhaps twice; then all of them again."""
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
    """Append what autograd keeps more after a block than before it."""
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
    """Return a micro-batch without numbers, of `rows` rows of `length` tokens."""
    ids = torch.empty(rows, length, dtype=torch.long, device="meta")
    mask = torch.empty(rows, 1, length, length, dtype=torch.bool, device="meta") if packed else None
    return Batch(ids, torch.empty_like(ids), mask, torch.empty_like(ids), torch.empty_like(ids, dtype=torch.bool))


def trace(
    model: nn.Module, blocks: nn.ModuleList, batch: Batch, *, columns: int, penalty: Any, linear: Any = None
) -> Trace:
    """Return what one forward and backward of a model on the meta device keeps and computes.

    columns: positions whose logits are computed. penalty: a function of the model that adds to its loss, or returns
    None. linear: in the place of torch's linear function.
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
