"""Kernels: the shape of one bump, a product over the dimensions.

    K_h(x - y) = ∏_d k(u_d) / (h_d ∫k),   u_d = (x_d - y_d)/h_d

    Gaussian        k(u) = exp(-u²/2)      ∫k = √(2π)   variance 1
    Epanechnikov    k(u) = (1 - u²)₊       ∫k = 4/3     variance 1/5

(Parzen 1962, "On estimation of a probability density function and mode"; Epanechnikov 1969, "Non-parametric estimation
of a multivariate probability density".) The second is the product of one-dimensional bumps, whose support is a box; the
radial one, whose support is a ball, is another kernel in more than one dimension. Two kernels smooth alike when their
standard deviations agree, so a bandwidth for one is `spread` times as wide for the other (Scott 1992, section 6.2.3.3).

On levels the same k is summed instead of integrated, over the levels there are (`levels`). A missing cell of x is
integrated or summed out: its factor is 1, exactly.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from jensen.noise import Noise

Word = Literal["gaussian", "epanechnikov"]
WIDE, EXACT_DIMS = 1e3, 16  # bandwidths from the origin; dimensions
FACTORS = 16  # multiplied up before their logarithm is taken; each is 0 or at least 1e-16


class Kernel(ABC):
    """The shape of a bump.

    Attributes:
        spread: its standard deviation on the real line at h = 1.
        log_integral: log ∫k.
        reach: where it ends, in bandwidths.
    """

    spread: ClassVar[float]
    log_integral: ClassVar[float]
    reach: ClassVar[float]

    @abstractmethod
    def log_bump(self, u: Tensor) -> Tensor:
        """log k(u)."""

    @abstractmethod
    def log_product(
        self, x: Float64[Tensor, "B d"], y: Float64[Tensor, "n d"], seen: Float64[Tensor, "B d"] | None = None
    ) -> Float64[Tensor, "B n"]:
        """Σ_d log k(x_d - y_d) for every pair of rows, over the cells of x that are seen.

        Args:
            x: rows in bandwidths; any number where a cell is missing.
            y: rows in bandwidths, near the same origin as x, since products of large numbers cancel.
            seen: 1 where a cell of x is there, 0 where it is missing; None if all are there.
        """

    @abstractmethod
    def narrowest_on_levels(self, share: float) -> float:
        """The bandwidth, in levels, at which the next level weighs `share` as much as a bump's own."""

    @abstractmethod
    def draw(self, noise: Noise, ids: Int[Tensor, " n"], dims: int) -> Float64[Tensor, "n d"]:
        """Draws of the kernel at h = 1 on the real line."""


class Gaussian(Kernel):
    """exp(-u²/2)."""

    spread, log_integral, reach = 1.0, 0.5 * math.log(2 * math.pi), math.inf

    def log_bump(self, u: Tensor) -> Tensor:
        """-u²/2."""
        return -0.5 * u.square()

    def log_product(self, x: Tensor, y: Tensor, seen: Tensor | None = None) -> Tensor:
        """-½ (Σ x² - 2 x·y + Σ y²): one matrix product; difference by difference where y is wide, and dimensions few."""
        if y.shape[1] <= EXACT_DIMS and float(y.square().sum(1).amax()) > WIDE**2:
            return self._exact(x, y, seen)
        if seen is None:
            own, other = x.square().sum(1)[:, None], y.square().sum(1)
            return torch.addmm(-0.5 * (own + other), x, y.T).clamp_(max=0)
        x = x * seen
        own = torch.addmm(x.square().sum(1)[:, None], seen, y.square().T)
        return torch.addmm(-0.5 * own, x, y.T).clamp_(max=0)

    def _exact(self, x: Tensor, y: Tensor, seen: Tensor | None) -> Tensor:
        total = x.new_zeros(len(x), len(y))
        for d in range(x.shape[1]):
            u = x[:, d, None] - y[:, d]
            total -= 0.5 * (u if seen is None else u * seen[:, d, None]).square()
        return total

    def narrowest_on_levels(self, share: float) -> float:
        """exp(-1/2h²) = share."""
        return 1 / math.sqrt(-2 * math.log(share))

    def draw(self, noise: Noise, ids: Tensor, dims: int) -> Tensor:
        """Standard normal."""
        return noise.normal(ids, (dims,)).double()


class Epanechnikov(Kernel):
    """(1 - u²)₊."""

    spread, log_integral, reach = math.sqrt(0.2), math.log(4 / 3), 1.0

    def log_bump(self, u: Tensor) -> Tensor:
        """log (1 - u²)₊."""
        return (1 - u.square()).clamp(min=0).log()

    def log_product(self, x: Tensor, y: Tensor, seen: Tensor | None = None) -> Tensor:
        """Exact differences, dimension by dimension; -∞ outside the box."""
        total = x.new_zeros(len(x), len(y))
        for start in range(0, x.shape[1], FACTORS):
            product = torch.ones_like(total)
            for d in range(start, min(start + FACTORS, x.shape[1])):
                u = x[:, d, None] - y[:, d]
                u = u if seen is None else u * seen[:, d, None]
                product *= (1 - u.square()).clamp_(min=0)
            total += product.log_()
        return total

    def narrowest_on_levels(self, share: float) -> float:
        """1 - 1/h² = share."""
        return 1 / math.sqrt(1 - share)

    def draw(self, noise: Noise, ids: Tensor, dims: int) -> Tensor:
        """Of three uniform draws on (-1, 1) the third, unless it is the largest in size: then the second (Devroye and
        Györfi 1985, "Nonparametric Density Estimation: The L1 View", p. 236).
        """
        u = 2 * noise.uniform(ids, (3, dims)) - 1
        return torch.where(u[:, 2].abs() >= torch.maximum(u[:, 0].abs(), u[:, 1].abs()), u[:, 1], u[:, 2])


KERNELS: dict[str, Kernel] = {"gaussian": Gaussian(), "epanechnikov": Epanechnikov()}
