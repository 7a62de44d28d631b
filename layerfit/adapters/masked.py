"""Linear modules in which only chosen entries train: the full matrix is frozen, the entries are a separate parameter.

Forward and backward use the matrix with the entries written in, bit-identical to a plain module with these weights.
The frozen matrix, the entries and their indices are held throughout a step; the filled matrix and the dense gradient
exist for one module at a time.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layerfit.anatomy import Anatomy

LARGEST_DRAWN = 1 << 22
"""The largest matrix on the meta device, in entries, whose mask is really drawn."""


def filled(weight: Tensor, entries: Tensor, indices: Tensor) -> Tensor:
    """Return a copy of the matrix [out, in] with `entries` [n, 1] at the flat `indices` [n]."""
    out = weight.detach().clone(memory_format=torch.contiguous_format)
    out.view(-1).index_copy_(0, indices.long(), entries.detach().view(-1))
    return out


class _Masked(torch.autograd.Function):
    """y = x filled(W)^T; the gradient of the entries is that of the filled matrix at their indices.

    Backward recomputes the filled matrix: saved by autograd, those of all modules would be a second model in memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, entries: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, entries)
        ctx.indices = indices
        return F.linear(x, filled(weight, entries, indices))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, entries = ctx.saved_tensors
        to_x = to_entries = None
        if ctx.needs_input_grad[0]:
            to_x = grad @ filled(weight, entries, ctx.indices)
        if ctx.needs_input_grad[2]:
            dense = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
            to_entries = dense.reshape(-1)[ctx.indices.long()].unsqueeze(1)
        return to_x, None, to_entries, None


class MaskedLinear(nn.Module):
    """A linear module whose `entries` [n, 1] train. Its state dict is that of the plain module, entries written in."""

    indices: Tensor

    def __init__(self, plain: nn.Linear, indices: Tensor) -> None:
        super().__init__()
        # Directly in this module, not in a submodule: ZeRO-3 gathers the parameters of the module whose forward runs.
        self.weight, self.bias = plain.weight, plain.bias
        self.in_features, self.out_features = plain.in_features, plain.out_features
        flat = plain.weight.detach().view(-1)
        # Two dimensions: weight decay acts on matrices only, and these are entries of one.
        self.entries = nn.Parameter(flat[indices.to(flat.device)].clone().unsqueeze(1))
        small = indices.to(torch.int32) if flat.numel() < 2**31 else indices
        self.register_buffer("indices", small.to(flat.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x filled(W)^T + b."""
        out: Tensor = _Masked.apply(x, self.weight, self.entries, self.indices)
        return out if self.bias is None else out + self.bias

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = filled(self.weight, self.entries, self.indices)
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias if keep_vars else self.bias.detach()


def draw_indices(name: str, shape: torch.Size, *, share: float, seed: int) -> Tensor:
    """Return the ascending flat indices of entries drawn with probability `share`, equal on every rank and device.

    A pure function of seed, name and shape, so checkpoints need not hold the mask.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"random mask/{seed}/{name}".encode()))
    # Dtype and device are explicit: an estimate changes the defaults.
    draws = torch.rand(shape.numel(), generator=generator, dtype=torch.float32, device="cpu")
    return (draws < share).nonzero().squeeze(1)


def indices_for(name: str, weight: Tensor, *, share: float, seed: int) -> Tensor:
    """Return the flat indices of the entries of a weight that train; those of a large meta tensor only by number."""
    # For estimates: drawing for all weights of a 7B model takes a minute, and the number drawn among 4 million differs
    # from its mean by about 0.5% at a share of 1%.
    if weight.is_meta and weight.numel() > LARGEST_DRAWN:
        return torch.empty(round(share * weight.numel()), dtype=torch.long, device="meta")
    return draw_indices(name, weight.shape, share=share, seed=seed)


def mask_modules(model: nn.Module, anatomy: Anatomy, units: list[str], *, share: float, seed: int) -> int:
    """Freeze the model except for drawn entries of the linear modules `units`; return the number of these entries."""
    model.requires_grad_(False)
    total = 0
    for unit in units:
        parent, _, last = anatomy.module_path(unit).rpartition(".")
        holder = model.get_submodule(parent)
        plain = getattr(holder, last)
        assert isinstance(plain, nn.Linear), f"{unit} is not a linear module"
        indices = indices_for(unit, plain.weight, share=share, seed=seed)
        if len(indices):
            setattr(holder, last, MaskedLinear(plain, indices))
        total += len(indices)
    return total


def entry_parameters(model: nn.Module) -> set[str]:
    """Return the names of the parameters that hold the trained entries of frozen matrices."""
    return {f"{path}.entries" for path, module in model.named_modules() if isinstance(module, MaskedLinear)}
