"""Conditional laws of one dimension, p(x_d | x_<d), each from the numbers that a causal network puts out for it.

    Categories   softmax over k levels, exact on Levels
    Logistics    a mixture of discretised logistics, exact on Levels (Salimans et al. 2017, "PixelCNN++")
    Normals      a mixture of normals, on Real (Bishop 1994, "Mixture density networks"; Uria et al. 2013, "RNADE")

A law draws from two uniform numbers, so that a sample is a function of its noise: one picks a component, the other is
put through the component's inverse distribution function.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from jensen.data.space import Levels
from jensen.distributions.logistic import DiscretisedLogistic
from jensen.distributions.picking import picked_each

NARROWEST = 1e-3  # the smallest standard deviation of a normal, in standard deviations of the column


class Law(ABC):
    """p(x_d | parameters). `outputs` is how many parameters it takes."""

    outputs: int

    @abstractmethod
    def log_prob(self, parameters: Float[Tensor, "*shape outputs"], x: Float[Tensor, "*shape"]) -> Tensor:
        """log p(x) at each value, in the parameters' precision."""

    @abstractmethod
    def draw(self, parameters: Float[Tensor, "n outputs"], u: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """One value each from two uniform numbers in [0, 1), float64."""

    def start(self, counts: Float[Tensor, " k"] | None) -> Tensor | None:
        """Where the parameters should begin, `(outputs,)`, given how often each level occurs; None to leave them."""
        return None


class Categories(Law):
    """softmax over the levels.

    Args:
        space: the levels.
    """

    def __init__(self, space: Levels) -> None:
        self.space, self.outputs = space, space.k

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log softmax at the level's number."""
        index = self.space.index(x.double())[..., None]
        return parameters.gather(-1, index)[..., 0] - parameters.logsumexp(-1)

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """The level at which the distribution function passes the first number."""
        return self.space.first + self.space.step * _place(parameters, u[:, 0]).double()

    def start(self, counts: Tensor | None) -> Tensor | None:
        """The log-histogram."""
        return None if counts is None else (counts / counts.sum()).log()


class Logistics(Law):
    """Σ_m w_m DiscretisedLogistic(loc_m, scale_m).

    Args:
        space: the levels.
        components: M.
    """

    def __init__(self, space: Levels, components: int) -> None:
        self.space, self.components, self.outputs = space, components, 3 * components
        # from a logistic that is e^-50 off its level to one that is as wide as all levels
        self.floor, self.width = math.log(space.step) - math.log(100), math.log(space.step * space.k)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log-sum-exp over components."""
        logits, loc, scale = self._read(parameters)
        return (logits.log_softmax(-1) + self._law(loc, scale).log_prob(x[..., None].to(loc))).logsumexp(-1)

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """A component's level."""
        logits, loc, scale = self._read(parameters)
        loc, scale = _picked(logits, u[:, 0], loc, scale)
        return self._law(loc.double(), scale.double()).icdf(u[:, 1].double())

    def start(self, counts: Tensor | None) -> Tensor | None:
        """Components spread over the levels."""
        middles = (torch.arange(self.components) + 0.5) / self.components
        loc = self.space.first + self.space.step * (self.space.k * middles - 0.5)
        wide = torch.full((self.components,), -math.log(self.components))
        return torch.cat([torch.zeros(self.components), loc, wide])

    def _read(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations, scales."""
        logits, loc, log_scale = parameters.split(self.components, -1)
        return logits, loc, (self.width + log_scale).clamp(self.floor, self.width + 2).exp()

    def _law(self, loc: Tensor, scale: Tensor) -> DiscretisedLogistic:
        return DiscretisedLogistic(loc, scale, first=self.space.first, step=self.space.step, k=self.space.k)


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
        loc, scale = _picked(logits, u[:, 0], loc, scale)
        middle = u[:, 1].double().clamp(2.0**-54, 1 - 2.0**-53)
        return loc.double() + scale.double() * torch.special.ndtri(middle)

    def start(self, counts: Tensor | None) -> Tensor | None:
        """Components spread over two standard deviations either side."""
        loc = torch.linspace(-1, 1, self.components) if self.components > 1 else torch.zeros(1)
        return torch.cat([torch.zeros(self.components), loc, torch.zeros(self.components)])

    def _read(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations, scales."""
        logits, loc, log_scale = parameters.split(self.components, -1)
        return logits, loc, log_scale.clamp(math.log(NARROWEST), 10.0).exp()


def _place(logits: Tensor, u: Tensor) -> Tensor:
    """The number of the category at which the distribution function passes u, `(n,)`."""
    return picked_each(logits.double().softmax(-1), u)


def _picked(logits: Tensor, u: Tensor, *of_components: Tensor) -> tuple[Tensor, ...]:
    """What belongs to the component that u picks, `(n,)` each."""
    place = _place(logits, u)[:, None]
    return tuple(t.gather(-1, place)[:, 0] for t in of_components)
