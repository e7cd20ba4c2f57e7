"""Monotonic rational-quadratic splines: a flexible increasing map of the line with an exact inverse.

Between knots (x_k, y_k) and (x_{k+1}, y_{k+1}) with slopes δ_k, δ_{k+1} > 0, with ξ = (x - x_k)/(x_{k+1} - x_k) and
s = (y_{k+1} - y_k)/(x_{k+1} - x_k),

    g(x) = y_k + (y_{k+1} - y_k) [s ξ² + δ_k ξ(1-ξ)] / [s + (δ_{k+1} + δ_k - 2s) ξ(1-ξ)]                     (4)
    g'(x) = s² [δ_{k+1} ξ² + 2 s ξ(1-ξ) + δ_k (1-ξ)²] / [s + (δ_{k+1} + δ_k - 2s) ξ(1-ξ)]²                   (5)

(Gregory and Delbourgo 1982; Durkan et al. 2019, "Neural spline flows", equations 4 to 8). The inverse solves a ξ² + b ξ + c = 0,
by the root that does not cancel, ξ = 2c / (-b - √(b² - 4ac)), in float64: where slopes differ much, b² - 4ac cancels. What
remains is the rounding of y itself, which costs x a g'(x)-th part of it. Outside [-B, B] the map is the identity, and the slopes at the
ends are 1, so it is once continuously differentiable everywhere and far values are left as they are.

Bins and slopes are kept away from zero and infinity, whatever a network puts out: a bin is at least a thousandth of
[-B, B] wide and high, a slope lies in (1/1000, 1000).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jensen.errors import InputError

LEAST_BIN = 1e-3  # as a share of the interval
MOST_LOG_SLOPE = math.log(1e3)


def parameters_of(bins: int) -> int:
    """How many numbers describe a spline of that many bins: widths, heights, slopes at inner knots."""
    return 3 * bins - 1


@dataclass(frozen=True)
class Spline:
    """Splines on [-bound, bound], the identity outside.

    Attributes:
        x: knots, rising from -bound to bound.
        y: their images, likewise.
        slope: derivatives there, 1 at both ends.

    Example:
        >>> spline = Spline.from_numbers(torch.zeros(8), bound=3.0)
        >>> y, log_slope = spline(torch.tensor(0.7))
        >>> round(float(y), 6), round(float(log_slope), 6)
        (0.7, 0.0)
    """

    x: Float[Tensor, "*batch knots"]
    y: Float[Tensor, "*batch knots"]
    slope: Float[Tensor, "*batch knots"]

    @staticmethod
    def from_numbers(numbers: Float[Tensor, "*batch n"], bound: float) -> "Spline":
        """The spline that 3 K - 1 free numbers describe; all zero give the identity.

        Args:
            numbers: widths and heights of K bins before a softmax, and log-slopes at the K - 1 inner knots.
            bound: B, in the units of x.

        Raises:
            InputError: a bound that is not positive, a number of numbers that is not 3 K - 1.
        """
        bins = (numbers.shape[-1] + 1) // 3
        if bins < 1 or parameters_of(bins) != numbers.shape[-1] or bins * LEAST_BIN >= 1:
            raise InputError(f"a spline of K bins takes 3 K - 1 numbers, K from 1 to 999, got {numbers.shape[-1]}")
        if not 0 < bound < math.inf:
            raise InputError(f"bound must be positive, got {bound}")
        widths, heights, slopes = numbers.split([bins, bins, bins - 1], -1)
        inner = (MOST_LOG_SLOPE * (slopes / MOST_LOG_SLOPE).tanh()).exp()
        return Spline(_knots(widths, bound), _knots(heights, bound), F.pad(inner, (1, 1), value=1.0))

    def __call__(self, x: Float[Tensor, "*batch"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """g(x), and log g'(x)."""
        inside, at, (x_k, y_k, width, s, low, high) = self._bin(x, self.x)
        xi = (at - x_k) / width
        y = y_k + s * width * _share(xi, s, low, high)
        log_slope = _log_slope(xi, s, low, high)
        return torch.where(inside, y, x), torch.where(inside, log_slope, torch.zeros_like(x))

    def inverse(self, y: Float[Tensor, "*batch"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """x with g(x) = y, and log dx/dy = -log g'(x), computed in float64 and given back in the precision of y."""
        exact = Spline(self.x.double(), self.y.double(), self.slope.double())
        x, log_slope = exact._inverse(y.double())
        return x.to(y), log_slope.to(y)

    def _inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        inside, at, (x_k, y_k, width, s, low, high) = self._bin(y, self.y)
        share = (at - y_k) / (s * width)
        bend = share * (low + high - 2 * s)
        a, b, c = s - low + bend, low - bend, -s * share  # equations 6 to 8, over the bin's height
        xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        xi = xi.clamp(0, 1)
        log_slope = _log_slope(xi, s, low, high)
        return torch.where(inside, x_k + width * xi, y), torch.where(inside, -log_slope, torch.zeros_like(y))

    def _bin(self, value: Tensor, knots: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Whether a value lies inside, the value or, where it does not, one that does, and all about its bin."""
        inside = (value >= knots[..., 0]) & (value <= knots[..., -1])
        at = torch.where(inside, value, torch.zeros_like(value))
        k = (at.unsqueeze(-1) >= knots[..., 1:-1]).sum(-1, keepdim=True)
        shape = (*value.shape, knots.shape[-1])
        x, y, slope = (t.expand(shape) for t in (self.x, self.y, self.slope))
        x_k, y_k, low = (t.gather(-1, k).squeeze(-1) for t in (x, y, slope))
        x_next, y_next, high = (t.gather(-1, k + 1).squeeze(-1) for t in (x, y, slope))
        width = x_next - x_k
        return inside, at, (x_k, y_k, width, (y_next - y_k) / width, low, high)


def _knots(numbers: Tensor, bound: float) -> Tensor:
    """-B, then the sums of the bins' shares, then B exactly."""
    bins = numbers.shape[-1]
    softmax = (
        numbers.movedim(-1, 0).contiguous().softmax(0).movedim(0, -1)
    )  # along a short last axis it is several times slower
    share = LEAST_BIN + (1 - bins * LEAST_BIN) * softmax
    inner = bound * (2 * share.cumsum(-1)[..., :-1] - 1)
    ends = inner.new_full((*inner.shape[:-1], 1), bound)
    return torch.cat([-ends, inner, ends], -1)


def _share(xi: Tensor, s: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The share of the bin's height at the share ξ of its width."""
    across = xi * (1 - xi)
    return (s * xi.square() + low * across) / (s + (high + low - 2 * s) * across)


def _log_slope(xi: Tensor, s: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """log g' at the share ξ of the bin's width."""
    across = xi * (1 - xi)
    above = high * xi.square() + 2 * s * across + low * (1 - xi).square()
    return 2 * s.log() + above.log() - 2 * (s + (high + low - 2 * s) * across).log()
