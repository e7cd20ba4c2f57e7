"""The evidence lower bound of rows, from independent draws of z.

    (1/R) Σ_r log p(x | z_r) - KL(q(z | x) ‖ p(z)),   z_r ~ q(z | x)

with the divergence in closed form where the pair has one, else log p(z_r) - log q(z_r | x) by the same draws. The error is that of the mean
of R draws. Posteriors and sums are in float64, the networks in float32; draws are keyed by row and number, and are looked at
a few at a time.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.bounds.evidence import NoiseBlock, pieces
from jensen.bounds.kl import kl_by_dimension
from jensen.distributions.from_noise import FromNoise
from jensen.vae.parts import Joint


@dataclass
class Running:
    """Mean and sum of squared deviations of draws that come in blocks (Chan, Golub and LeVeque 1979)."""

    count: int
    mean: Tensor
    squares: Tensor

    @staticmethod
    def of(values: Float64[Tensor, "draws B"]) -> "Running":
        """The first block."""
        mean = values.mean(0)
        return Running(len(values), mean, (values - mean).square().sum(0))

    def add(self, values: Float64[Tensor, "draws B"]) -> "Running":
        """With a further block."""
        new = Running.of(values)
        total, away = self.count + new.count, new.mean - self.mean
        mean = self.mean + away * (new.count / total)
        squares = self.squares + new.squares + away.square() * (self.count * new.count / total)
        return Running(total, mean, squares)

    @property
    def stderr(self) -> Tensor:
        """Of the mean."""
        return (self.squares / (self.count - 1) / self.count).sqrt()


@dataclass(frozen=True)
class Elbo:
    """The bound of B rows.

    Attributes:
        reconstruction: the mean of log p(x | z).
        divergence: -KL(q ‖ p), exact or the mean of log p(z) - log q(z | x).
        stderr: of their sum.
    """

    reconstruction: Float64[Tensor, " B"]
    divergence: Float64[Tensor, " B"]
    stderr: Float64[Tensor, " B"]


@torch.no_grad()
def elbo_of(joint: Joint, x: Float64[Tensor, "B *event"], noise: NoiseBlock, draws: int, together: int) -> Elbo:
    """The bound from `draws` draws a row.

    Args:
        joint: prior, emission, posterior.
        x: rows, float64.
        noise: standard normals of block 0, 1, …, all of one length.
        draws: R, at least 2.
        together: how many draws to look at together.
    """
    q = joint.posterior(x)
    assert isinstance(q, FromNoise)
    p = joint.prior(x.new_zeros(len(x), 0))
    rate = kl_by_dimension(q, p)
    exact = None if rate is None else -rate.sum(1)
    both = reconstruction = divergence = None
    for eps in pieces(noise, draws, together):
        z, log_q = q.place_with_log_prob(eps.to(x))
        emitted = joint.emission(z).log_prob(x).double()
        rest = exact.expand(len(z), -1) if exact is not None else (p.log_prob(z) - log_q).double()
        both = Running.of(emitted + rest) if both is None else both.add(emitted + rest)
        reconstruction = Running.of(emitted) if reconstruction is None else reconstruction.add(emitted)
        divergence = Running.of(rest) if divergence is None else divergence.add(rest)
    assert both is not None and reconstruction is not None and divergence is not None  # noqa: PT018
    return Elbo(reconstruction.mean, divergence.mean, both.stderr)
