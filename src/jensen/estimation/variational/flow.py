"""Flows as approximations: z = m + L f(u), u ~ N(0, I), f a chain of splines that begins as the identity.

It begins where a full-rank fit ends, so it is never worse than that, and bends it (Rezende and Mohamed 2015, "Variational inference
with normalizing flows"). Draws bring their density along, so gradients are the plain reparameterised ones: the splines would have to
be undone for those that leave q's own density fixed.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.distributions.from_noise import DiagonalNormal, FromNoise, FullNormal
from jensen.errors import InputError
from jensen.estimation.variational.families import Family, FullRank, LogJoint, pairs, zeros
from jensen.flow.bijection import Bijection, Chain, MaskedSpline
from jensen.flow.pushforward import Pushforward
from jensen.noise import Noise

MOST_DIMS = 256
BINS, BOUND = 8, 5.0


class Placed(Bijection):
    """z = c + S (a + T y), T lower triangular with the exponentials of its numbers on the diagonal."""

    centre: Tensor
    root: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("root", torch.eye(dims, dtype=torch.float64))
        self.shift, self.turn = zeros(dims), zeros(dims, dims)

    def normal(self) -> FullNormal:
        """The law of z if y ~ N(0, I)."""
        factor = self.root @ (self.turn.tril(-1) + self.turn.diagonal().exp().diag())
        return FullNormal((self.centre + self.root @ self.shift)[None], factor[None])

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z and log |det|."""
        law = self.normal()
        return law.place(x), law.factor[0].diagonal().log().sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """y."""
        law = self.normal()
        return torch.linalg.solve_triangular(law.factor[0], (z - law.loc).T, upper=False).T

    @torch.no_grad()
    def set(self, law: FullNormal) -> None:
        """Make it the law of z if y ~ N(0, I)."""
        self.centre.copy_(law.loc[0])
        self.root.copy_(law.factor[0])
        self.shift.zero_()
        self.turn.zero_()


class Flow(Family):
    """The law of m + L f(u).

    Args:
        dims: D.
        layers: autoregressive splines in f, onwards and backwards in turn.
        width: of their networks.
        seed: of their weights.
    """

    word = "flow"
    rate, stage = 0.02, 150

    def __init__(self, dims: int, layers: int = 2, width: int = 32, seed: int = 0) -> None:
        super().__init__(dims)
        if dims > MOST_DIMS:
            raise InputError(f"a flow family has at most {MOST_DIMS} dimensions, got {dims}; take low-rank or mixture")
        if not (1 <= layers <= 16 and 1 <= width <= 1024):
            raise InputError(f"layers must be from 1 to 16 and width from 1 to 1024, got {layers} and {width}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            splines = [
                MaskedSpline(
                    dims, list(range(dims))[:: -1 if k % 2 else 1], bins=BINS, bound=BOUND, width=width, depth=1
                )
                for k in range(layers)
            ]
        self.placed = Placed(dims)
        self.map = Chain(*splines, self.placed).double()

    def forward(self) -> Pushforward:
        """f and the place, behind a standard normal."""
        return self.wide(1.0)

    def wide(self, factor: float) -> Pushforward:
        """The same map of wider noise."""
        zero = torch.zeros(1, self.dims, dtype=torch.float64)
        return Pushforward(DiagonalNormal(zero, zero + math.log(factor)), self.map)

    @property
    def start(self) -> Family:
        """A full-rank normal."""
        return FullRank(self.dims)

    def follow(self, found: FromNoise) -> None:
        """At that normal, f being the identity."""
        assert isinstance(found, FullNormal)
        self.placed.set(found.detached())

    def place(self, centre: Float64[Tensor, " D"], scale: float, noise: Noise) -> None:
        """There."""
        self.placed.set(FullNormal(centre[None], scale * torch.eye(self.dims, dtype=torch.float64)[None]))

    def recentre(self) -> None:
        """What is behind f; f is in coordinates of its own."""
        self.placed.set(self.placed.normal().detached())

    def values(self, log_joint: LogJoint, noise: Noise, draws: int) -> Tensor:
        """With the density of a draw from the draw."""
        z, log_q = self().place_with_log_prob(pairs(noise, draws, self.dims)[:, None])
        return log_joint(z[:, 0]) - log_q[:, 0]
