"""Laws on real values.

Scaled     a normal, from its location and the logarithm of its scale
Normals    a mixture of normals (Bishop 1994, "Mixture density networks"; Uria et al. 2013, "RNADE")
"""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from jensen.laws.law import Law, inside, picked

NARROWEST = 1e-3  # the smallest standard deviation of a normal, in standard deviations of the column


class Scaled(Law):
    """N(loc, scale²), no scale below 0.001 standard deviations of the data."""

    outputs = 2
    located = True

    def _normal(self, parameters: Tensor) -> Normal:
        loc, log_scale = parameters.unbind(-1)
        return Normal(loc, log_scale.clamp(math.log(NARROWEST), 10.0).exp(), validate_args=False)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log N(x; loc, scale²)."""
        value: Tensor = self._normal(parameters).log_prob(x.to(parameters))
        return value

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """A quantile."""
        law = self._normal(parameters.double())
        return law.loc + law.scale * torch.special.ndtri(inside(u[:, 1]))

    def mean(self, parameters: Tensor) -> Tensor:
        """loc."""
        return parameters[..., 0]


class Normals(Law):
    """Σ_m w_m N(loc_m, scale_m²), no scale below 0.001 standard deviations of the data.

    Args:
        components: M.
    """

    def __init__(self, components: int) -> None:
        self.components, self.outputs = components, 3 * components

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log-sum-exp over components."""
        logits, loc, scale = self._read(parameters)
        law = Normal(loc, scale, validate_args=False)
        return (logits.log_softmax(-1) + law.log_prob(x[..., None].to(loc))).logsumexp(-1)

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """A component's quantile."""
        logits, loc, scale = self._read(parameters)
        loc, scale = picked(logits, u[:, 0], loc, scale)
        return loc.double() + scale.double() * torch.special.ndtri(inside(u[:, 1]))

    def mean(self, parameters: Tensor) -> Tensor:
        """Σ_m w_m loc_m."""
        logits, loc, _ = self._read(parameters)
        return (logits.softmax(-1) * loc).sum(-1)

    def start(self, counts: Tensor | None) -> Tensor | None:
        """Components spread over two standard deviations either side."""
        loc = torch.linspace(-1, 1, self.components) if self.components > 1 else torch.zeros(1)
        return torch.cat([torch.zeros(self.components), loc, torch.zeros(self.components)])

    def _read(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations, scales."""
        logits, loc, log_scale = parameters.split(self.components, -1)
        return logits, loc, log_scale.clamp(math.log(NARROWEST), 10.0).exp()
