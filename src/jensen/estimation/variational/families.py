"""Families of normal approximations q(z), and what a family is.

    mean-field   N(m, diag(s²))
    full-rank    N(m, L Lᵀ)
    low-rank     N(m, diag(s²) + F Fᵀ)

A member is written in the coordinates y of a place, z = c + S y, in which q is about N(0, I): `recentre` moves the place to where q
is and leaves q as it is. So a step of one size suits every unit and, for full rank, every correlation.

Gradients are along the path of the draws with q's own density held fixed in its parameters: of ∇ E_q[log p(x, z) - log q(z)] the term
E_q[∇_φ log q_φ(z)] is 0 and is left out. Where q is the posterior every draw then has gradient 0 exactly, and the ascent ends on it
without noise (Roeder, Wu and Duvenaud 2017, "Sticking the landing"). Draws come in pairs of opposite noise.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from jensen.distributions.from_noise import DiagonalNormal, FromNoise, FullNormal, LowRankNormal
from jensen.errors import InputError
from jensen.noise import Noise

LogJoint = Callable[[Tensor], Tensor]
MOST_WHOLE = 2000  # dimensions of a full-rank factor: with its moments 0.1 GB


class Family(nn.Module, ABC):
    """A family of distributions of z, and a member of it: the one its parameters say.

    Args:
        dims: D, of z.

    Class attributes:
        word: its name.
        rate: the step size it begins with, in its own coordinates.
        stage: steps that are judged together.
    """

    word: ClassVar[str]
    rate: ClassVar[float] = 0.05
    stage: ClassVar[int] = 50

    def __init__(self, dims: int) -> None:
        super().__init__()
        if dims < 1:
            raise InputError(f"dims must be at least 1, got {dims}")
        self.dims = dims

    @abstractmethod
    def forward(self) -> FromNoise:
        """q, of batch_shape (1,)."""

    @abstractmethod
    def place(self, centre: Float64[Tensor, " D"], scale: float, noise: Noise) -> None:
        """Begin near N(centre, scale² I); noise breaks ties."""

    @abstractmethod
    def recentre(self) -> None:
        """Write q in coordinates of its own."""

    @property
    def start(self) -> "Family | None":
        """A simpler family that is fitted first; `follow` takes over what it finds."""
        return None

    def follow(self, found: FromNoise) -> None:
        """Begin at the member of `start` that was found."""
        raise NotImplementedError

    @abstractmethod
    def wide(self, factor: float) -> FromNoise:
        """q with its noise so many times as large: what looks for mass that q does not reach."""

    def values(self, log_joint: LogJoint, noise: Noise, draws: int) -> Float64[Tensor, " n"]:
        """log p(x, z) - log q(z) at draws of q: their mean estimates the ELBO, and its gradient the ELBO's."""
        q = self()
        z = q.place(pairs(noise, draws, q.noise_dims)[:, None])
        return log_joint(z[:, 0]) - q.detached().log_prob(z)[:, 0]


class MeanField(Family):
    """N(m, diag(s²)): as if the dimensions of z were independent given x."""

    word = "mean-field"
    centre: Tensor
    log_size: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__(dims)
        self.register_buffer("centre", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("log_size", torch.zeros(dims, dtype=torch.float64))
        self.shift, self.log_scale = zeros(dims), zeros(dims)

    def forward(self) -> DiagonalNormal:
        """m = c + S a, log s = log S + b."""
        loc = self.centre + self.log_size.exp() * self.shift
        return DiagonalNormal(loc[None], (self.log_size + self.log_scale)[None])

    def wide(self, factor: float) -> DiagonalNormal:
        """N(m, diag((factor s)²))."""
        q = self()
        return DiagonalNormal(q.loc, q.log_scale + math.log(factor))

    def place(self, centre: Tensor, scale: float, noise: Noise) -> None:
        """There."""
        self.centre.copy_(centre)
        self.log_size.fill_(math.log(scale))

    @torch.no_grad()
    def recentre(self) -> None:
        """c ← m, S ← s."""
        q = self()
        _take(self.centre, q.loc[0], self.shift)
        _take(self.log_size, q.log_scale[0], self.log_scale)


class FullRank(Family):
    """N(m, L Lᵀ), any covariance."""

    word = "full-rank"
    centre: Tensor
    root: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__(dims)
        if dims > MOST_WHOLE:
            raise InputError(
                f"a full-rank family has at most {MOST_WHOLE} dimensions, got {dims}; take low-rank or mean-field"
            )
        self.register_buffer("centre", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("root", torch.eye(dims, dtype=torch.float64))
        self.shift, self.turn = zeros(dims), zeros(dims, dims)

    def forward(self) -> FullNormal:
        """m = c + S a, L = S T, T lower triangular with the exponentials of its numbers on the diagonal."""
        factor = self.root @ (self.turn.tril(-1) + self.turn.diagonal().exp().diag())
        return FullNormal((self.centre + self.root @ self.shift)[None], factor[None])

    def wide(self, factor: float) -> FullNormal:
        """N(m, factor² L Lᵀ)."""
        q = self()
        return FullNormal(q.loc, factor * q.factor)

    def place(self, centre: Tensor, scale: float, noise: Noise) -> None:
        """There."""
        self.centre.copy_(centre)
        self.root.copy_(scale * torch.eye(self.dims, dtype=torch.float64))

    @torch.no_grad()
    def recentre(self) -> None:
        """c ← m, S ← L."""
        q = self()
        _take(self.centre, q.loc[0], self.shift)
        _take(self.root, q.factor[0], self.turn)


class LowRank(Family):
    """N(m, diag(s²) + F Fᵀ), F of `rank` columns: correlations along a few directions, at D · rank numbers.

    Args:
        dims: D.
        rank: columns of F.
    """

    word = "low-rank"
    centre: Tensor
    log_size: Tensor

    def __init__(self, dims: int, rank: int = 5) -> None:
        super().__init__(dims)
        if not 1 <= rank <= dims:
            raise InputError(f"rank must be from 1 to the {dims} dimensions of z, got {rank}")
        self.rank = rank
        self.register_buffer("centre", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("log_size", torch.zeros(dims, dtype=torch.float64))
        self.shift, self.log_scale, self.factor = zeros(dims), zeros(dims), zeros(dims, rank)

    def forward(self) -> LowRankNormal:
        """m = c + S a, log s = log S + b, F = S G."""
        size = self.log_size.exp()
        loc, log_scale = self.centre + size * self.shift, self.log_size + self.log_scale
        return LowRankNormal(loc[None], (size[:, None] * self.factor)[None], log_scale[None])

    def wide(self, factor: float) -> LowRankNormal:
        """N(m, factor² (diag(s²) + F Fᵀ))."""
        q = self()
        return LowRankNormal(q.loc, factor * q.factor, q.log_scale + math.log(factor))

    @torch.no_grad()
    def place(self, centre: Tensor, scale: float, noise: Noise) -> None:
        """There, with a small random F: at F = 0 no direction is better than another."""
        self.centre.copy_(centre)
        self.log_size.fill_(math.log(scale))
        self.factor.copy_(0.1 * normals(noise, self.dims, self.rank))

    @torch.no_grad()
    def recentre(self) -> None:
        """c ← m, S ← the standard deviations of q, so that a dimension that F explains keeps a size."""
        q = self()
        log_sd = 0.5 * q.variance[0].log()
        factor, log_scale = q.factor[0] / log_sd.exp()[:, None], q.log_scale[0] - log_sd
        _take(self.centre, q.loc[0], self.shift)
        self.log_size.copy_(log_sd)
        self.log_scale.copy_(log_scale)
        self.factor.copy_(factor)


def zeros(*shape: int) -> nn.Parameter:
    """Parameters that begin at 0."""
    return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))


def normals(noise: Noise, rows: int, *shape: int) -> Tensor:
    """Standard normal draws in float64, keyed by their row."""
    return noise.normal(range(rows), shape).double()


def pairs(noise: Noise, rows: int, *shape: int) -> Tensor:
    """Standard normal draws and their negatives: where log p(x, z) is a parabola, the gradient of a mean has no noise then."""
    half = normals(noise, (rows + 1) // 2, *shape)
    return torch.cat([half, -half])[:rows]


def _take(kept: Tensor, value: Tensor, parameter: Tensor) -> None:
    kept.copy_(value)
    parameter.zero_()
