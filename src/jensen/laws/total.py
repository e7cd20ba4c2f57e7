"""Σ_d log p(x_d) of rows, a slab at a time.

A law's formula makes some ten to thirty arrays as large as its parameters, and with whole tensors the processor waits for memory. Here
each slab of rows passes through its cache, forwards and backwards at once: what is kept for the way back is

    ∂ Σ_d log p(x_d) / ∂ parameters,

as large as the parameters and nothing more. A law that has this slope in closed form gives it; others leave it to automatic
differentiation (`by_autograd`). Parameters of half precision are brought up to float32 slab by slab.

Sums are float64. Of float32 numbers 64 at a time are added in float32 first, whose rounding is that of the numbers themselves: to copy
every one of them to float64 took as long as the products of a small network.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.autograd.function import once_differentiable

SLAB = 1 << 18  # numbers: one megabyte
BLOCK = 64


def single(x: Tensor) -> Tensor:
    """In float32 if it was less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def summed(cells: Float[Tensor, "*shape D"]) -> Float64[Tensor, "*shape"]:
    """Σ_d."""
    whole = cells.shape[-1] // BLOCK * BLOCK if cells.dtype == torch.float32 else 0
    if not whole:
        return cells.sum(-1, dtype=torch.float64)
    rest = cells[..., whole:].sum(-1, dtype=torch.float64)
    return rest + cells[..., :whole].unflatten(-1, (-1, BLOCK)).sum(-1).sum(-1, dtype=torch.float64)


def summed_logs(factors: Float[Tensor, "*shape D"]) -> Float64[Tensor, "*shape"]:
    """Σ_d log of numbers from 1 to 2: of float32 ones the logarithm of the product of 64 at a time, which is at most 2⁶⁴; a logarithm takes as
    long as ten products.
    """
    whole = factors.shape[-1] // BLOCK * BLOCK if factors.dtype == torch.float32 else 0
    if not whole:
        return factors.log().sum(-1, dtype=torch.float64)
    rest = factors[..., whole:].log().sum(-1, dtype=torch.float64)
    return rest + factors[..., :whole].unflatten(-1, (-1, BLOCK)).prod(-1).log_().sum(-1, dtype=torch.float64)


Sums = Callable[[Tensor, Tensor], Tensor]
SumsAndSlope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def by_autograd(log_prob: Sums) -> SumsAndSlope:
    """Σ_d log p(x_d) and its slope in the parameters, by automatic differentiation of the cells' log p."""

    @torch.enable_grad()
    def both(parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The slope in the parameters' own precision."""
        own = parameters.detach().requires_grad_()
        found = summed(log_prob(single(own), x))
        (slope,) = torch.autograd.grad(found.sum(), own)
        return found.detach(), slope

    return both


def total_of(
    sums: Sums, sums_and_slope: SumsAndSlope, parameters: Float[Tensor, "*draws #B D P"], x: Float[Tensor, "B D"]
) -> Float[Tensor, "*draws B"]:
    """Σ_d log p(x_d), float64; differentiable once, in the parameters alone.

    Args:
        sums: of rows, from the parameters of their cells in at least float32, and their values.
        sums_and_slope: the same, of parameters in any precision, and its derivative in them.
        parameters: P numbers a cell; leading dimensions are draws, which x has not.
        x: rows.

    Example:
        >>> def cells(p, x): return -(x - p[..., 0]) ** 2
        >>> total_of(lambda p, x: summed(cells(p, x)), by_autograd(cells), torch.zeros(5, 2, 3, 1), torch.ones(2, 3)).shape
        torch.Size([5, 2])
    """
    rows, cells = torch.broadcast_shapes(parameters.shape[-3:-1], x.shape)
    whole = parameters.expand(*parameters.shape[:-3], rows, cells, -1)
    flat, shared = whole.reshape(-1, rows, cells, whole.shape[-1]), x.expand(rows, cells)
    total = flat.new_empty(flat.shape[:2], dtype=torch.float64)
    sloped = torch.is_grad_enabled() and flat.requires_grad
    slope = torch.empty_like(flat, memory_format=torch.contiguous_format) if sloped else None
    with torch.no_grad():
        for draws, at in _slabs(flat):
            if slope is None:
                total[draws, at] = sums(single(flat[draws, at]), shared[at])
            else:
                total[draws, at], slope[draws, at] = sums_and_slope(flat[draws, at], shared[at])
    if slope is not None:
        total = _Sloped.apply(flat, total, slope)
    assert isinstance(total, Tensor)
    return total.view(whole.shape[:-2])


class _Sloped(torch.autograd.Function):
    """A value whose derivative is known."""

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * weight[..., None, None].to(slope), None, None


def _slabs(like: Float[Tensor, "k B D P"]) -> Iterator[tuple[slice, slice]]:
    """Which draws and rows are looked at together."""
    k, rows = like.shape[:2]
    together = max(1, SLAB // max(1, like[0, 0].numel()) if k and rows else 1)
    draws = max(1, together // max(1, rows))
    for i in range(0, k, draws):
        for j in range(0, rows, together):
            yield slice(i, i + draws), slice(j, j + together)
