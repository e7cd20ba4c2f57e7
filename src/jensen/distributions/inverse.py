"""The generalised inverse F⁻(u) = inf{x : F(x) ≥ u} of any distribution function.

Where F has a jump, several u share one x; where it is flat, F⁻ jumps. Then F(F⁻(u)) ≥ u and F⁻(u) ≤ x ⟺ u ≤ F(x)
hold for every F, and that is all that sampling by inversion needs (Devroye 1986, "Non-uniform random variate
generation", theorem 2.1). The ordinary inverse, a solution of F(x) = u, need not exist.

The floats of double precision are ordered as their bits are, read as integers. Bisection over those 2⁶⁴ integers
takes 64 steps wherever the answer lies and ends at the first float with F(x) ≥ u: no bracket, no tolerance, no slope,
and a jump is met exactly.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

Function = Callable[[Tensor], Tensor]
_SIGN = -(2**63)


def generalised_inverse(
    cdf: Function, u: Float[Tensor, "*shape"], *, low: float = -math.inf, high: float = math.inf
) -> Float64[Tensor, "*shape"]:
    """inf{x : F(x) ≥ u}, the first such float64; `low` for u = 0 and `high` for u = 1.

    Args:
        cdf: F, nondecreasing, elementwise on float64.
        u: probabilities in [0, 1]; of those near 1 use `upper_inverse`.
        low: the lower end of the support.
        high: the upper end of the support.

    Example:
        >>> coin = lambda x: 0.5 * (x >= 0).double() + 0.5 * (x >= 1).double()
        >>> generalised_inverse(coin, torch.tensor([0.2, 0.5, 0.7]), low=0.0, high=1.0).tolist()
        [0.0, 0.0, 1.0]
    """
    u = u.to(torch.float64)
    x = _first(lambda x: cdf(x) >= u, u, low, high)
    return torch.where(u <= 0, low, torch.where(u >= 1, high, x))


def upper_inverse(
    survival: Function, v: Float[Tensor, "*shape"], *, low: float = -math.inf, high: float = math.inf
) -> Float64[Tensor, "*shape"]:
    """inf{x : S(x) ≤ v} with S = 1 - F: F⁻(1 - v), where 1 - v could not be told from 1.

    Args:
        survival: S, nonincreasing, elementwise on float64.
        v: probabilities in [0, 1].
        low: the lower end of the support.
        high: the upper end of the support.
    """
    v = v.to(torch.float64)
    x = _first(lambda x: survival(x) <= v, v, low, high)
    return torch.where(v <= 0, high, torch.where(v >= 1, low, x))


def _first(holds: Function, like: Tensor, low: float, high: float) -> Tensor:
    """The first float in [low, high] where a property holds that, once true, stays true; high if nowhere."""
    before = _order(torch.full_like(like, low)) - 1
    at = _order(torch.full_like(like, high))
    for _ in range(64):
        middle = (before >> 1) + (at >> 1) + (before & at & 1)
        middle = torch.where(middle == before, at, middle)  # found; and what is before -inf is no number
        true = holds(_float(middle))
        at, before = torch.where(true, middle, at), torch.where(true, before, middle)
    return _float(at)


def _order(x: Float64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Integers in the order of the floats; 0 for both zeros."""
    bits = x.view(torch.int64)
    return torch.where(bits >= 0, bits, _SIGN - bits)


def _float(order: Int64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """The float at a place in the order."""
    return torch.where(order >= 0, order, _SIGN - order).view(torch.float64)
