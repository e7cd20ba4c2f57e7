"""p(z).

    normal      N(0, I)
    mixture     Σ_k w_k N(m_k, diag(s_k²)), learned with the rest: the library's mixture in free coordinates
    vamp        (1/K) Σ_k q(z | u_k), the posterior at K learned rows (Tomczak and Welling 2018, "VAE with a VampPrior", equation 9)
    two layers  p(z₂) p(z₁ | z₂)
    diffusion   a DDPM of codes (`diffusion_prior`)

A prior that is not N(0, I) has no closed-form KL to q; its share of the bound is a mean over draws.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import DiagonalNormal, Stacked
from jensen.distributions.picking import picked
from jensen.mixture.diagonal import Diagonal
from jensen.mixture.parameters import Parameters
from jensen.mixture.unconstrained import Unconstrained
from jensen.noise import Noise
from jensen.vae.posterior import NormalGiven, Posterior


class Prior(Conditional):
    """p(z), from which z can be drawn by keyed noise.

    Attributes:
        dims: of z.
        noise_dims: how many standard normals a log-density takes that is known by draws alone; 0 for one that is exact.
    """

    dims: int
    noise_dims: int = 0

    def law(self, noise: Float[Tensor, "draws B E"]) -> Distribution:
        """The law of z for the rows of this noise, which one that is exact does not look at."""
        return self(noise.new_zeros(noise.shape[1], 0))

    @abstractmethod
    def draw(self, ids: Tensor, noise: Noise) -> Float[Tensor, "n D"]:
        """A z for each id."""


class StandardNormal(Prior):
    """N(0, I).

    Args:
        dims: of z.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, given: Tensor) -> DiagonalNormal:
        """A standard normal a row."""
        zeros = given.new_zeros(len(given), self.dims)
        return DiagonalNormal(zeros, zeros)

    def draw(self, ids: Tensor, noise: Noise) -> Tensor:
        """The noise itself."""
        return noise.normal(ids, (self.dims,)).double()


class Scored(Distribution):
    """A law of vectors that is known by its log-density.

    Args:
        function: log p of vectors `(n, D)`, `(n,)`.
        batch: how many rows it is for.
        dims: D.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, function: Callable[[Tensor], Tensor], batch: int, dims: int) -> None:
        self.function = function
        super().__init__(torch.Size((batch,)), torch.Size((dims,)), validate_args=False)

    def log_prob(self, value: Float[Tensor, "*draws B D"]) -> Float[Tensor, "*draws B"]:
        """log p of each."""
        return self.function(value.flatten(0, -2)).view(value.shape[:-1])


def log_mixture(
    z: Float[Tensor, "n D"],
    log_weights: Float[Tensor, " K"],
    means: Float[Tensor, "K D"],
    variances: Float[Tensor, "K D"],
) -> Float64[Tensor, " n"]:
    """log Σ_k w_k N(z; m_k, diag(s_k²)) by products of matrices,

        Σ_d (z - m)² / s² = z² · s⁻² - 2 z · m s⁻² + Σ_d m² s⁻²,

    so that nothing is as large as n K D. In float64, where what cancels is far below a code's own scale.
    """
    z, means, precision = z.double(), means.double(), 1 / variances.double()
    squares = z.square() @ precision.T - 2 * z @ (means * precision).T + (means.square() * precision).sum(1)
    constant = z.shape[1] * math.log(2 * math.pi) - precision.log().sum(1)
    return (log_weights.double() - 0.5 * (squares + constant)).logsumexp(1)


class MixturePrior(Prior):
    """Σ_k w_k N(m_k, diag(s_k²)).

    Args:
        dims: of z.
        components: K.
    """

    def __init__(self, dims: int, components: int) -> None:
        super().__init__()
        self.dims = dims
        start = Parameters(
            torch.full((components,), 1 / components),
            torch.randn(components, dims),
            {"variances": torch.ones(components, dims)},
        )
        self.mixture = Unconstrained(start, Diagonal(), torch.float32)

    def forward(self, given: Tensor) -> Scored:
        """The same mixture for every row."""
        variances = self.mixture.raw["variances"].double().exp()
        known = self.mixture.logits.log_softmax(0), self.mixture.means, variances
        return Scored(lambda z: log_mixture(z, *known), len(given), self.dims)

    @torch.no_grad()
    def draw(self, ids: Tensor, noise: Noise) -> Tensor:
        """A component's normal."""
        now = self.mixture.parameters_now()
        k = picked(now.weights.cpu(), noise.at("component").uniform(ids)).to(now.means.device)
        eps = noise.normal(ids, (self.dims,)).double().to(now.means.device)
        return now.means[k] + now.spread["variances"][k].sqrt() * eps


class VampPrior(Prior):
    """(1/K) Σ_k q(z | u_k).

    Args:
        posterior: q, a diagonal normal, whose parameters are the model's.
        dims: of z.
        components: K.
        event: of a row.
    """

    def __init__(self, posterior: Posterior, dims: int, components: int, event: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims
        self._posterior = (posterior,)  # in a tuple, since it is a part of the model and not of the prior
        self.pseudo_rows = nn.Parameter(torch.randn(components, *event))

    def _members(self) -> DiagonalNormal:
        q = self._posterior[0].forward(self.pseudo_rows)
        assert isinstance(q, DiagonalNormal)
        return q

    def forward(self, given: Tensor) -> Scored:
        """The same mixture for every row."""
        q = self._members()
        share = q.loc.new_full((len(q.loc),), -math.log(len(q.loc)))
        return Scored(lambda z: log_mixture(z, share, q.loc, q.variance), len(given), self.dims)

    @torch.no_grad()
    def draw(self, ids: Tensor, noise: Noise) -> Tensor:
        """A draw of q at a row that is picked."""
        q = self._members()
        k = (noise.at("component").uniform(ids) * len(q.loc)).long().to(q.loc.device)
        eps = noise.normal(ids, (self.dims,)).double().to(q.loc.device)
        return q.loc[k].double() + q.scale[k].double() * eps


class TwoLayerPrior(Prior):
    """p(z₂) p(z₁ | z₂) of z = (z₁, z₂).

    Args:
        top: p(z₂).
        first: p(z₁ | z₂).
        dims: of z₁.
    """

    def __init__(self, top: StandardNormal, first: NormalGiven, dims: int) -> None:
        super().__init__()
        self.top, self.first, self.first_dims = top, first, dims
        self.dims = dims + top.dims

    def forward(self, given: Tensor) -> Stacked:
        """Downwards."""
        return Stacked(self.top.forward(given), self.first, self.first_dims, reverse=True)

    @torch.no_grad()
    def draw(self, ids: Tensor, noise: Noise) -> Tensor:
        """The noise, put through both."""
        device = next(self.first.parameters()).device
        eps = noise.normal(ids, (self.dims,)).double().to(device)
        return self.forward(eps.new_zeros(len(ids), 0)).place(eps)
