"""Σ_d log p(x_d) of zeros and ones, from log-odds, a slab at a time.

    log p(x) = Σ_d x_d l_d - log(1 + e^l_d) = -Σ_d log(1 + e^(±l_d)),   ∂ log p / ∂l_d = x_d - 1 / (1 + e^-l_d)

Written with whole tensors this makes and fills some ten arrays as large as the log-odds of all draws, and waits for memory. Here
each slab passes through the processor's cache, and the gradient is all that is made.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from jensen.laws.law import single

SLAB = 1 << 18  # numbers: a megabyte


def bernoulli_total(logit: Float[Tensor, "*draws B D"], one: Float[Tensor, "B D"]) -> Float[Tensor, "*draws B"]:
    """Σ_d log p(x_d), float64; differentiable once, in the log-odds alone.

    Args:
        logit: l, of any precision; those of less than float32 are brought up slab by slab.
        one: x, zeros and ones, the same for all draws.

    Example:
        >>> round(float(bernoulli_total(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 1.0]]))), 4)
        -2.0794
    """
    logit, every = torch.broadcast_tensors(logit, one)
    rows = every.shape[-one.ndim :]
    total = _Total.apply(logit.reshape(-1, *rows), one.expand(rows))
    assert isinstance(total, Tensor)
    return total.view(logit.shape[:-1])


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logit: Tensor, one: Tensor) -> Tensor:
        ctx.save_for_backward(logit, one)
        total = logit.new_empty(logit.shape[:-1], dtype=torch.float64)
        sign = 2 * one - 1
        for draws, rows in _slabs(logit):
            found = logsigmoid(single(logit[draws, rows] * sign[rows]))
            total[draws, rows] = found.sum(-1, dtype=torch.float64)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        logit, one = ctx.saved_tensors
        gradient = torch.empty_like(logit, memory_format=torch.contiguous_format)
        for draws, rows in _slabs(logit):
            upper = single(logit[draws, rows]).sigmoid()
            away = torch.sub(one[rows], upper, out=upper)
            torch.mul(away, slope[draws, rows, None].to(away), out=gradient[draws, rows])
        return gradient, None


def _slabs(like: Float[Tensor, "k B D"]) -> Iterator[tuple[slice, slice]]:
    """Which draws and rows are looked at together."""
    k, rows, cells = like.shape
    together = max(1, SLAB // max(1, cells))
    draws = max(1, together // max(1, rows))
    for i in range(0, k, draws):
        for j in range(0, rows, together):
            yield slice(i, i + draws), slice(j, j + together)
