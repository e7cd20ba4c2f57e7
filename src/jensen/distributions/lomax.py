"""The Lomax (shifted Pareto) distribution: an exponential whose rate is drawn from a gamma.

    p(x) = (a/b) (1 + x/b)^-(a+1),   F(x) = 1 - (1 + x/b)^-a,   x ≥ 0

It is the posterior predictive of exponential waiting times under a Gamma(a, rate b) prior. Its tail is a power: the
mean is finite for a > 1 only, the variance for a > 2. (Lomax 1954, "Business failures: another example of the analysis of
failure data".)
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints


class Lomax(Distribution):
    """x ~ Exponential(λ) with λ ~ Gamma(concentration, rate = scale).

    Args:
        concentration: a, positive.
        scale: b, positive, in the unit of x.
        validate_args: check parameters and values, as in torch.

    Example:
        >>> float(Lomax(torch.tensor(3.0), torch.tensor(4.0)).mean)
        2.0
    """

    arg_constraints: ClassVar = {"concentration": constraints.positive, "scale": constraints.positive}
    support = constraints.nonnegative

    def __init__(
        self,
        concentration: Float[Tensor, "*#batch"],
        scale: Float[Tensor, "*#batch"],
        validate_args: bool | None = None,
    ) -> None:
        self.concentration, self.scale = torch.broadcast_tensors(concentration, scale)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) at each value."""
        if self._validate_args:
            self._validate_sample(value)
        return self.concentration.log() - self.scale.log() - (self.concentration + 1) * torch.log1p(value / self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        """F(x)."""
        return -torch.expm1(-self.concentration * torch.log1p(value / self.scale))

    def icdf(self, value: Tensor) -> Tensor:
        """F⁻¹(u) = b ((1 - u)^(-1/a) - 1)."""
        return self.scale * torch.expm1(-torch.log1p(-value) / self.concentration)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """By the inverse distribution function, -log(1 - u) being a standard exponential draw."""
        with torch.no_grad():
            waiting = self.scale.new_empty(self._extended_shape(torch.Size(sample_shape))).exponential_()
            return self.scale * torch.expm1(waiting / self.concentration)

    @property
    def mean(self) -> Tensor:
        """b/(a - 1); ∞ for a ≤ 1."""
        a = self.concentration
        return torch.where(a > 1, self.scale / (a - 1), math.inf)

    @property
    def variance(self) -> Tensor:
        """b² a / ((a - 1)² (a - 2)); ∞ for a ≤ 2."""
        a = self.concentration
        return torch.where(a > 2, self.scale.square() * a / ((a - 1).square() * (a - 2)), math.inf)
