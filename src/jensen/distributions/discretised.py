"""The normal distribution discretised to k equally spaced levels, with open end bins.

    P(level j) = Φ((v_j + Δ/2 - loc) / scale) - Φ((v_j - Δ/2 - loc) / scale),

where the lowest bin reaches down to -∞ and the highest up to +∞, so that the k probabilities sum to one.
(Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 13; there with a floor that this one has not.)
The logarithm is taken of differences of Φ through log Φ in the tail where no cancellation occurs.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.special import log_ndtr

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class DiscretisedNormal(Distribution):
    """Independent discretised normals.

    Args:
        loc: `(B, *event)`.
        scale: broadcasts to loc, positive.
        first: the lowest level's value.
        step: the distance between levels.
        k: the number of levels.

    Values are the levels themselves, first + step·j. batch_shape is `(B, *event)`, event_shape is `()`.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real

    def __init__(
        self, loc: Float[Tensor, "*shape"], scale: Float[Tensor, "*#shape"], *, first: float, step: float, k: int
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.first, self.step, self.k = first, step, k
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(level) at each value, float64."""
        level = ((value.to(torch.float64) - self.first) / self.step).round()
        centre = (self.first + self.step * level - self.loc) / self.scale
        half = 0.5 * self.step / self.scale.to(torch.float64)
        low = torch.where(level <= 0, -math.inf, centre - half)
        high = torch.where(level >= self.k - 1, math.inf, centre + half)
        return log_normal_mass(low, high)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """A normal draw moved to the nearest level: exactly this distribution."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.quantise(self.loc + self.scale * torch.randn(shape, dtype=self.loc.dtype))

    def quantise(self, y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The level nearest to each value of y."""
        return self.first + self.step * ((y - self.first) / self.step).round().clamp(0, self.k - 1)


def log_normal_mass(low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(Φ(high) - Φ(low)) for low < high, accurate in both tails and for narrow intervals.

    Both ends are mirrored into the left half, where log Φ(high) + log1p(-exp(log Φ(low) - log Φ(high))) loses
    nothing unless the interval is narrow; there, for width w about a middle m, the mass is φ(m)·w·(1 + w²(m²-1)/24).
    """
    mirror = low + high > 0
    low, high = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    width, middle = high - low, 0.5 * (high + low)
    narrow = (width < 1e-4) & ((width * middle).abs() < 1e-3)
    safe_low, safe_high = torch.where(narrow, -1.0, low), torch.where(narrow, 0.0, high)
    upper = log_ndtr(safe_high)
    wide = upper + log1mexp(upper - log_ndtr(safe_low))
    safe_width, safe_middle = torch.where(narrow, width, 1.0), torch.where(narrow, middle, 0.0)
    correction = torch.log1p(safe_width.square() * (safe_middle.square() - 1) / 24)
    density = -0.5 * safe_middle.square() - _LOG_SQRT_2PI + safe_width.log() + correction
    return torch.where(narrow, density, wide)


def log1mexp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 - exp(-x)) for x > 0 (Mächler 2012)."""
    return torch.where(x < math.log(2), (-torch.expm1(-x)).log(), torch.log1p(-torch.exp(-x)))
