"""q(z | x): an encoder's features, and a family of distributions that reads them.

    diagonal    N(μ, diag(s²))
    full        N(μ, L Lᵀ)
    flow        z = μ + s ⊙ f(ε; h), f coupling splines that see the encoder's features h, the identity at first

(Kingma and Welling 2014, appendix C.2, the first two; Rezende and Mohamed 2015, the third, with the splines of Durkan et al. 2019.)
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import DiagonalNormal, FromNoise, FullNormal, LocationScale, Stacked
from jensen.flow.bijection import Chain, MaskedSpline
from jensen.flow.pushforward import Pushforward
from jensen.nn.perceptron import Activation, Perceptron
from jensen.noise import Noise
from jensen.rules import FINITE, Rule, Ruled

NARROWEST, WIDEST = -12.0, 8.0  # logarithms of standard deviations, beyond which gradients are cut off
MEAN_DRAWS = 64
SPLINES, BINS, BOUND, HIDDEN, SEEN = 4, 8, 5.0, 64, 32


class Family(nn.Module, ABC):
    """A family of distributions of `dims` numbers, a member of which `features` numbers choose."""

    features: int

    @abstractmethod
    def forward(self, h: Float[Tensor, "*B features"]) -> FromNoise:
        """The member."""


class Diagonal(Family):
    """N(μ, diag(s²)).

    Args:
        dims: of z.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.features = 2 * dims

    def forward(self, h: Tensor) -> DiagonalNormal:
        """μ and log s."""
        loc, log_scale = h.chunk(2, -1)
        return DiagonalNormal(loc, log_scale.clamp(NARROWEST, WIDEST))


class Full(Family):
    """N(μ, L Lᵀ), the logarithms of L's diagonal free.

    Args:
        dims: of z.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims, self.features = dims, dims + dims * (dims + 1) // 2

    def forward(self, h: Tensor) -> FullNormal:
        """μ, log diag L, and L below it."""
        dims = self.dims
        loc, log_scale, below = h.split([dims, dims, self.features - 2 * dims], -1)
        row, column = torch.tril_indices(dims, dims, -1, device=h.device)
        lower = h.new_zeros(*h.shape[:-1], dims, dims)
        lower[..., row, column] = below
        return FullNormal(loc, lower + torch.diag_embed(log_scale.clamp(NARROWEST, WIDEST).exp()))


class Flowed(Family):
    """μ + s ⊙ f(ε; h).

    Args:
        dims: of z, at least 2.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims, self.features = dims, 2 * dims + SEEN
        halves = [list(range(0, dims, 2)), list(range(1, dims, 2))]
        self.map = Chain(
            *(
                MaskedSpline(
                    dims, halves[:: -1 if n % 2 else 1], bins=BINS, bound=BOUND, width=HIDDEN, depth=1, context_dim=SEEN
                )
                for n in range(SPLINES)
            )
        )

    def forward(self, h: Tensor) -> LocationScale:
        """The splines' context is what is left of the features."""
        loc, log_scale, seen = h.split([self.dims, self.dims, SEEN], -1)
        zeros = torch.zeros_like(loc)
        inner = Pushforward(DiagonalNormal(zeros, zeros), self.map, seen)
        return LocationScale(inner, loc, log_scale.clamp(NARROWEST, WIDEST))


FAMILIES: dict[str, type[Diagonal] | type[Full] | type[Flowed]] = {"diagonal": Diagonal, "full": Full, "flow": Flowed}


class Posterior(Conditional, Ruled):
    """q(z | x).

    Args:
        network: rows, less their mean, → features.
        family: that reads them.
        event: of a row.
    """

    mean: Tensor

    def __init__(self, network: nn.Module, family: Family, event: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.family = network, family
        self.register_buffer("mean", torch.zeros(event))

    def rules(self) -> dict[str, Rule]:
        """Any mean."""
        return {"mean": FINITE}

    def forward(self, given: Tensor, context: Tensor | None = None) -> FromNoise:
        """The member for each row."""
        q = self.family(self.features(given, context))
        assert isinstance(q, FromNoise)
        return q

    def features(self, given: Tensor, context: Tensor | None = None) -> Float[Tensor, "B features"]:
        """What the family reads, float64: laws of codes are computed in that. The network computes in its own precision."""
        features = self.network((given - self.mean.to(given)).to(self.mean), context)
        assert isinstance(features, Tensor)
        return features.double()


class NormalGiven(Conditional):
    """N(μ(z), diag(s(z)²)): the step between two layers of latents.

    Args:
        dims_in, dims_out: of z, and of what it says something about.
        width, depth, activation: of the network.
    """

    def __init__(self, dims_in: int, dims_out: int, *, width: int, depth: int, activation: Activation = "silu") -> None:
        super().__init__()
        self.network = Perceptron(dims_in, 2 * dims_out, width=width, depth=depth, activation=activation)

    def forward(self, given: Float[Tensor, "*draws B D"]) -> DiagonalNormal:
        """A normal for every z."""
        weight = next(self.network.parameters())
        h = self.network(given.flatten(0, -2).to(weight.dtype)).to(given.dtype)
        loc, log_scale = h.view(*given.shape[:-1], -1).chunk(2, -1)
        return DiagonalNormal(loc, log_scale.clamp(NARROWEST, WIDEST))

    def __call__(self, given: Tensor) -> DiagonalNormal:
        """`forward`, with its type."""
        normal = super().__call__(given)
        assert isinstance(normal, DiagonalNormal)
        return normal


class TwoLayers(Conditional):
    """q(z₁ | x) q(z₂ | z₁) of z = (z₁, z₂) (Burda et al. 2016, equation 2).

    Args:
        first: q(z₁ | x).
        second: q(z₂ | z₁).
        dims: of z₂.
    """

    def __init__(self, first: Posterior, second: NormalGiven, dims: int) -> None:
        super().__init__()
        self.first, self.second, self.dims = first, second, dims

    def forward(self, given: Tensor, context: Tensor | None = None) -> Stacked:
        """Upwards."""
        q = self.first.forward(given, context)
        return Stacked(q, self.second, self.dims)


def mean_of(q: FromNoise) -> Float[Tensor, "B D"]:
    """E[z]; of a family without one in closed form, the mean of 64 draws, the same noise for every row."""
    if isinstance(q, DiagonalNormal | FullNormal):
        return q.mean
    noise = Noise(0, "mean of q").normal(range(MEAN_DRAWS), (q.noise_dims,)).double()
    return q.place(noise[:, None].expand(-1, q.batch_shape[0], -1)).mean(0)
