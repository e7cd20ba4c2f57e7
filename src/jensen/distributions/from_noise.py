"""Distributions of vectors that are maps of standard normal noise: what a posterior q(z | x) or a prior p(z) is made of.

    z = g(ε),   ε ~ N(0, I)

A draw is a function of its noise, so whoever keys the noise by the row's id has draws that no batch, process or resumed run
changes; and where g is differentiable in its parameters, so is an expectation under q (Kingma and Welling 2014, section 2.4:
the reparameterisation). `has_rsample`, torch's word, says whether it is.

Leading dimensions of noise and values are draws: `(*draws, B, D)`, of a distribution with batch_shape `(B,)`.

    DiagonalNormal    z = μ + s ⊙ ε
    FullNormal        z = μ + L ε,                 L lower triangular with a positive diagonal
    LowRankNormal     z = μ + s ⊙ ε₁ + F ε₂,       Σ = diag(s²) + F Fᵀ
    LocationScale     z = μ + s ⊙ u,               u ~ another one
    Stacked           z = (z₁, z₂),                z₂ ~ one that z₁ chooses, or the reverse
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, LowRankMultivariateNormal, constraints

from jensen.distributions.frozen import frozen

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class FromNoise(Distribution, ABC):
    """A distribution of vectors, batch_shape `(*B,)` (mostly one number of rows) and event_shape `(D,)`, with draws z = g(ε).

    Attributes:
        noise_dims: how many standard normal numbers a draw takes.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, batch: torch.Size | tuple[int, ...], dims: int, noise_dims: int | None = None) -> None:
        super().__init__(torch.Size(batch), torch.Size((dims,)), validate_args=False)
        self.noise_dims = dims if noise_dims is None else noise_dims

    @abstractmethod
    def place(self, noise: Float[Tensor, "*draws B E"]) -> Float[Tensor, "*draws B D"]:
        """g(ε)."""

    @abstractmethod
    def log_prob(self, value: Float[Tensor, "*draws B D"]) -> Float[Tensor, "*draws B"]:
        """The log-density at any z."""

    def place_with_log_prob(
        self, noise: Float[Tensor, "*draws B E"]
    ) -> tuple[Float[Tensor, "*draws B D"], Float[Tensor, "*draws B"]]:
        """g(ε) and the log-density there, which a flow has from ε at no further cost."""
        z = self.place(noise)
        return z, self.log_prob(z)

    def noise_of(self, value: Float[Tensor, "*draws B D"]) -> Float[Tensor, "*draws B E"]:
        """g⁻¹(z), where g has an inverse."""
        raise NotImplementedError(f"{type(self).__name__} takes more noise than it has dimensions")

    @abstractmethod
    def detached(self) -> "FromNoise":
        """The same distribution, its parameters cut from the graph: what estimators of gradients along the path need."""

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws from torch's own generator."""
        return self.place(self._like.new_empty((*sample_shape, *self.batch_shape, self.noise_dims)).normal_())

    @property
    @abstractmethod
    def _like(self) -> Tensor:
        """A tensor of the dtype and on the device of its draws."""


class DiagonalNormal(FromNoise):
    """N(loc, diag(exp(log_scale)²)).

    Args:
        loc: `(B, D)`.
        log_scale: likewise, logarithms of the standard deviations.

    Example:
        >>> q = DiagonalNormal(torch.zeros(1, 2), torch.zeros(1, 2))
        >>> round(float(q.log_prob(torch.zeros(1, 2))), 4)
        -1.8379
    """

    def __init__(self, loc: Float[Tensor, "*B D"], log_scale: Float[Tensor, "*B D"]) -> None:
        self.loc, self.log_scale = loc, log_scale
        super().__init__(loc.shape[:-1], loc.shape[-1])

    @property
    def scale(self) -> Tensor:
        """The standard deviations, `(B, D)`."""
        return self.log_scale.exp()

    @property
    def mean(self) -> Tensor:
        """μ."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """s²."""
        return (2 * self.log_scale).exp()

    def place(self, noise: Tensor) -> Tensor:
        """μ + s ⊙ ε."""
        return self.loc + self.scale * noise

    def noise_of(self, value: Tensor) -> Tensor:
        """(z - μ) / s."""
        return (value - self.loc) / self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_d log N(z_d; μ_d, s_d²)."""
        return self.terms(value).sum(-1)

    def terms(self, value: Tensor) -> Tensor:
        """log N(z_d; μ_d, s_d²), of the shape of z."""
        return -0.5 * self.noise_of(value).square() - self.log_scale - LOG_SQRT_2PI

    def detached(self) -> "DiagonalNormal":
        """Without a graph."""
        return DiagonalNormal(self.loc.detach(), self.log_scale.detach())

    @property
    def _like(self) -> Tensor:
        return self.loc


class FullNormal(FromNoise):
    """N(loc, L Lᵀ).

    Args:
        loc: `(B, D)`.
        factor: L, `(B, D, D)`, lower triangular with a positive diagonal.
    """

    def __init__(self, loc: Float[Tensor, "*B D"], factor: Float[Tensor, "*B D D"]) -> None:
        self.loc, self.factor = loc, factor
        super().__init__(loc.shape[:-1], loc.shape[-1])

    @property
    def mean(self) -> Tensor:
        """μ."""
        return self.loc

    @property
    def covariance_matrix(self) -> Tensor:
        """L Lᵀ, `(B, D, D)`."""
        return self.factor @ self.factor.mT

    @property
    def variance(self) -> Tensor:
        """The diagonal of Σ."""
        return self.factor.square().sum(-1)

    def place(self, noise: Tensor) -> Tensor:
        """μ + L ε."""
        return self.loc + (self.factor @ noise[..., None])[..., 0]

    def noise_of(self, value: Tensor) -> Tensor:
        """L⁻¹ (z - μ), all draws of a row with its one factor."""
        away = value - self.loc
        columns = away.reshape(-1, *self.loc.shape).movedim(0, -1)
        solved = torch.linalg.solve_triangular(self.factor, columns, upper=False)
        return solved.movedim(-1, 0).reshape(away.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(z; μ, L Lᵀ), by solving L ε = z - μ."""
        return self._log_prob_at(self.noise_of(value))

    def place_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The density from ε itself, without the rounding of a solve."""
        return self.place(noise), self._log_prob_at(noise)

    def _log_prob_at(self, noise: Tensor) -> Tensor:
        """-½ ε² - ½ D log 2π - log |L|."""
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (-0.5 * noise.square() - LOG_SQRT_2PI).sum(-1) - log_det

    def detached(self) -> "FullNormal":
        """Without a graph."""
        return FullNormal(self.loc.detach(), self.factor.detach())

    @property
    def _like(self) -> Tensor:
        return self.loc


class LowRankNormal(FromNoise):
    """N(loc, diag(exp(log_scale)²) + F Fᵀ).

    Args:
        loc: `(B, D)`.
        factor: F, `(B, D, r)`.
        log_scale: `(B, D)`.
    """

    def __init__(
        self, loc: Float[Tensor, "*B D"], factor: Float[Tensor, "*B D r"], log_scale: Float[Tensor, "*B D"]
    ) -> None:
        self.loc, self.factor, self.log_scale = loc, factor, log_scale
        super().__init__(loc.shape[:-1], loc.shape[-1], loc.shape[-1] + factor.shape[-1])

    @property
    def mean(self) -> Tensor:
        """μ."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The diagonal of Σ."""
        return (2 * self.log_scale).exp() + self.factor.square().sum(-1)

    def place(self, noise: Tensor) -> Tensor:
        """μ + s ⊙ ε₁ + F ε₂."""
        own, shared = noise.split([self.loc.shape[-1], self.factor.shape[-1]], -1)
        return self.loc + self.log_scale.exp() * own + (self.factor @ shared[..., None])[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(z; μ, Σ), by Woodbury's identity."""
        return LowRankMultivariateNormal(
            self.loc, self.factor, (2 * self.log_scale).exp(), validate_args=False
        ).log_prob(value)

    def detached(self) -> "LowRankNormal":
        """Without a graph."""
        return LowRankNormal(self.loc.detach(), self.factor.detach(), self.log_scale.detach())

    @property
    def _like(self) -> Tensor:
        return self.loc


class LocationScale(FromNoise):
    """The law of μ + s ⊙ u, u ~ inner.

    Args:
        inner: of u.
        loc: `(B, D)`.
        log_scale: likewise.
    """

    def __init__(self, inner: FromNoise, loc: Float[Tensor, "*B D"], log_scale: Float[Tensor, "*B D"]) -> None:
        self.inner, self.loc, self.log_scale = inner, loc, log_scale
        super().__init__(loc.shape[:-1], loc.shape[-1], inner.noise_dims)

    def place(self, noise: Tensor) -> Tensor:
        """μ + s ⊙ u."""
        return self.loc + self.log_scale.exp() * self.inner.place(noise)

    def place_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """log p(u) - Σ log s."""
        u, log_prob = self.inner.place_with_log_prob(noise)
        return self.loc + self.log_scale.exp() * u, log_prob - self.log_scale.sum(-1)

    def noise_of(self, value: Tensor) -> Tensor:
        """That of u = (z - μ) / s."""
        return self.inner.noise_of((value - self.loc) / self.log_scale.exp())

    def log_prob(self, value: Tensor) -> Tensor:
        """At u = (z - μ) / s."""
        return self.inner.log_prob((value - self.loc) / self.log_scale.exp()) - self.log_scale.sum(-1)

    def detached(self) -> "LocationScale":
        """Without a graph."""
        return LocationScale(self.inner.detached(), self.loc.detach(), self.log_scale.detach())

    @property
    def _like(self) -> Tensor:
        return self.loc


class Stacked(FromNoise):
    """z = (z₁, z₂) side by side, one drawn after the other: z₁ ~ first, z₂ ~ second(z₁); or z₂ first, if told so.

    Args:
        first: of the part that is drawn first.
        second: the law of the other part, given draws `(*draws, B, D₁)` of the first; a module, or a function without parameters.
        dims: of the other part.
        reverse: whether the part that is drawn first stands behind the other.
    """

    def __init__(
        self, first: FromNoise, second: Callable[[Tensor], FromNoise], dims: int, *, reverse: bool = False
    ) -> None:
        self.first, self.second, self.reverse = first, second, reverse
        own = first.event_shape[0]
        self.sizes = [dims, own] if reverse else [own, dims]
        super().__init__(first.batch_shape, own + dims)

    def parts_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What of z is drawn first, and what after it."""
        front, back = z.split(self.sizes, -1)
        return (back, front) if self.reverse else (front, back)

    def place(self, noise: Tensor) -> Tensor:
        """One after the other."""
        own, others = self.parts_of(noise)
        z = self.first.place(own)
        after = self.second(z).place(others)
        return torch.cat([after, z] if self.reverse else [z, after], -1)

    def noise_of(self, value: Tensor) -> Tensor:
        """That of both parts."""
        z, after = self.parts_of(value)
        own, others = self.first.noise_of(z), self.second(z).noise_of(after)
        return torch.cat([others, own] if self.reverse else [own, others], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(first) + log p(second | first)."""
        z, after = self.parts_of(value)
        return self.first.log_prob(z) + self.second(z).log_prob(after)

    def detached(self) -> "Stacked":
        """Without a graph in the parameters; the second law still depends on where the first part is."""
        dims = self.sizes[0 if self.reverse else 1]
        return Stacked(self.first.detached(), frozen(self.second), dims, reverse=self.reverse)

    @property
    def _like(self) -> Tensor:
        return self.first._like
