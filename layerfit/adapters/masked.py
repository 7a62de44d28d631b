"""Linear modules of which only given entries train. The full matrix is frozen, the entries are a parameter beside it.

Forward and backward see the matrix with the entries put in: bit for bit what a plain module with these weights does.
Kept through a step are the frozen matrix, the entries and their places; the filled matrix and the dense gradient exist
for one module at a time.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layerfit.anatomy import Anatomy

COINS = 1 << 22
"""Entries of the largest matrix without numbers for which coins are thrown."""


def filled(weight: Tensor, entries: Tensor, places: Tensor) -> Tensor:
    """Return the matrix [out, in] with `entries` [n, 1] at the flat `places` [n]; a new tensor."""
    out = weight.detach().clone(memory_format=torch.contiguous_format)
    out.view(-1).index_copy_(0, places.long(), entries.detach().view(-1))
    return out


class _Masked(torch.autograd.Function):
    """y = x filled(W)^T; the gradient of the entries is that of the filled matrix at their places.

    The filled matrix is made again in backward: autograd would keep one of every module, a second model.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, entries: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, entries)
        ctx.places = places
        return F.linear(x, filled(weight, entries, places))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, entries = ctx.saved_tensors
        to_x = to_entries = None
        if ctx.needs_input_grad[0]:
            to_x = grad @ filled(weight, entries, ctx.places)
        if ctx.needs_input_grad[2]:
            dense = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
            to_entries = dense.reshape(-1)[ctx.places.long()].unsqueeze(1)
        return to_x, None, to_entries, None


class MaskedLinear(nn.Module):
    """A linear module whose `entries` train. Its state dict is that of the plain module with the entries put in.

    weight and bias are the plain module's own. They lie directly in this module, as ZeRO-3 gathers a module's own
    parameters when it runs. entries is [n, 1]: weight decay acts on matrices, and these are entries of one.
    """

    places: Tensor

    def __init__(self, plain: nn.Linear, places: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.in_features, self.out_features = plain.in_features, plain.out_features
        flat = plain.weight.detach().view(-1)
        self.entries = nn.Parameter(flat[places.to(flat.device)].clone().unsqueeze(1))
        small = places.to(torch.int32) if flat.numel() < 2**31 else places
        self.register_buffer("places", small.to(flat.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x filled(W)^T + b."""
        out: Tensor = _Masked.apply(x, self.weight, self.entries, self.places)
        return out if self.bias is None else out + self.bias

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = filled(self.weight, self.entries, self.places)
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias if keep_vars else self.bias.detach()


def draw_places(name: str, shape: torch.Size, *, share: float, seed: int) -> Tensor:
    """Return the flat places, ascending, of the entries that a coin each has drawn; the same on every rank and device.

    A pure function of seed, name and shape: the mask needs no place in a checkpoint.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"random mask/{seed}/{name}".encode()))
    # Dtype and device are named: an estimate makes others the default.
    coins = torch.rand(shape.numel(), generator=generator, dtype=torch.float32, device="cpu")
    return (coins < share).nonzero().squeeze(1)


def places_for(name: str, weight: Tensor, *, share: float, seed: int) -> Tensor:
    """Return the places that train of a weight.

    A large one without numbers (an estimate's) has as many as the coins draw on average: coins for all weights of a 7B
    model take a minute, and what they draw in 4 million differs from that by about 0.5% at a share of 1%.
    """
    if weight.is_meta and weight.numel() > COINS:
        return torch.empty(round(share * weight.numel()), dtype=torch.long, device="meta")
    return draw_places(name, weight.shape, share=share, seed=seed)


def mask_modules(model: nn.Module, anatomy: Anatomy, units: list[str], *, share: float, seed: int) -> int:
    """Freeze the model, and let the drawn entries of the linear modules `units` train; return how many there are."""
    model.requires_grad_(False)
    total = 0
    for unit in units:
        parent, _, last = anatomy.module_path(unit).rpartition(".")
        holder = model.get_submodule(parent)
        plain = getattr(holder, last)
        assert isinstance(plain, nn.Linear), f"{unit} is no linear module"
        places = places_for(unit, plain.weight, share=share, seed=seed)
        if len(places):
            setattr(holder, last, MaskedLinear(plain, places))
        total += len(places)
    return total


def entry_parameters(model: nn.Module) -> set[str]:
    """Return the names of the parameters whose entries stand in the place of some of a frozen matrix."""
    return {f"{path}.entries" for path, module in model.named_modules() if isinstance(module, MaskedLinear)}
