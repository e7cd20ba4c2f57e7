"""Bumps on levels: an exact mass around a level.

    p(y | v) = k((y - v)/h) / Z(v),   Z(v) = Σ_{levels y} k((y - v)/h),   y, v ∈ 0 … K-1

A bump is given by its heights at the distances j = 0 … K-1; every sum over levels is then a difference of cumulative
sums, so that all v together cost as much as one. (Aitchison and Aitken 1976, "Multivariate binary discrimination by the
kernel method", for two levels; here levels have an order.)
"""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from jensen.kernel_density.kernels import Kernel


def heights(kernel: Kernel, bandwidths: Float64[Tensor, " d"], k: int) -> Float64[Tensor, "d k"]:
    """k(j/h_d) for the distances j = 0 … k-1."""
    return kernel.log_bump(torch.arange(k, dtype=torch.float64, device=bandwidths.device) / bandwidths[:, None]).exp()


def both_sides(values: Float64[Tensor, "*d k"], sign: float = 1.0) -> Float64[Tensor, "*d k"]:
    """values[0] + Σ_{j=1}^{k-1-v} values[j] + sign · Σ_{j=1}^{v} values[j] for every level v."""
    far = values.cumsum(-1) - values[..., :1]
    return values[..., :1] + far.flip(-1) + sign * far


def normalisers(bump: Float64[Tensor, "*d k"]) -> Float64[Tensor, "*d k"]:
    """Z(v) of every level v, from the heights of a bump."""
    return both_sides(bump)


def mean_square(bump: Float64[Tensor, "*d k"]) -> Float64[Tensor, "*d k"]:
    """E[(y - v)²] under p(y | v), for every v."""
    squares = torch.arange(bump.shape[-1], dtype=torch.float64, device=bump.device).square()
    return both_sides(bump * squares) / normalisers(bump)


def mean_offset(bump: Float64[Tensor, "*d k"]) -> Float64[Tensor, "*d k"]:
    """E[y - v] under p(y | v), for every v: not 0 near the ends."""
    distance = torch.arange(bump.shape[-1], dtype=torch.float64, device=bump.device)
    return both_sides(bump * distance, sign=-1.0) / normalisers(bump)


def drawn(bump: Float64[Tensor, " k"], centre: Int[Tensor, "..."], u: Float64[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The level at which the distribution function of p(y | centre) passes u, uniform on [0, 1)."""
    last = len(bump) - 1
    sums = torch.cat([bump.flip(0), bump[1:]]).cumsum(0)  # over offsets -(k-1) … k-1
    sums = torch.cat([sums.new_zeros(1), sums])
    first = last - centre  # the place of level 0 among the offsets
    low, high = sums[first], sums[first + last + 1]
    place = torch.searchsorted(sums, low + u.to(low) * (high - low), right=True) - 1
    return (place - first).clamp(0, last)
