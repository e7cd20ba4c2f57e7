"""Invertible maps of R^D whose log |det| is cheap: the pieces of a normalising flow.

With z = f(x) and z ~ N(0, I),

    log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|,

and determinants of maps in a row add up (Rezende and Mohamed 2015; Papamakarios et al. 2021, "Normalizing flows for
probabilistic modeling and inference", equation 5). A map works in the precision of the x it is given: training in float32,
scores and samples in float64. Its networks stay in their own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.distributions.spline import Spline, parameters_of
from jensen.nn.masked import Masked
from jensen.rules import FINITE, LOWER_TRIANGULAR, Rule, Ruled, between

MOST_LOG_SCALE = 80.0  # e^80 is a number in float32


class Bijection(nn.Module, ABC):
    """An invertible map of vectors (B, D)."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "B D"], context: Float[Tensor, "B C"] | None = None
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """z = f(x), and log |det ∂z/∂x| of each row."""

    @abstractmethod
    def inverse(self, z: Float[Tensor, "B D"], context: Float[Tensor, "B C"] | None = None) -> Float[Tensor, "B D"]:
        """x with f(x) = z."""


class Whitening(Bijection, Ruled):
    """z = W (x - μ), W lower triangular with W Σ Wᵀ = I: fixed numbers, measured once on training rows.

    A flow that starts with it and is otherwise the identity is the normal N(μ, Σ). Being triangular it keeps the order:
    z_d is what is new in x_d given those before it, in standard deviations.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("matrix", torch.eye(dims, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """A mean and a triangular matrix, of whose determinant the diagonal is all."""
        return {"mean": FINITE, "matrix": LOWER_TRIANGULAR}

    def set(self, mean: Float[Tensor, " D"], factor: Float[Tensor, "D D"]) -> None:
        """Take the mean and the Cholesky factor of the covariance."""
        identity = torch.eye(len(mean), dtype=torch.float64)
        self.mean.copy_(mean)
        self.matrix.copy_(torch.linalg.solve_triangular(factor, identity, upper=False))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """W (x - μ) and Σ log W_dd."""
        z = (x - self.mean.to(x)) @ self.matrix.to(x).T
        return z, self.matrix.diagonal().log().sum().to(x).expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """μ + W⁻¹ z."""
        return self.mean.to(z) + torch.linalg.solve_triangular(self.matrix.to(z), z.T, upper=False).T


class Linear(Bijection, Ruled):
    """z = L U x with L unit lower and U upper triangular, in one matrix of numbers; it starts as the identity.

    log |det| is the sum of the logarithms of U's diagonal, which are the numbers on the diagonal (Kingma and Dhariwal 2018,
    "Glow", equation 11; Oliva et al. 2018).
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(dims, dims))

    def rules(self) -> dict[str, Rule]:
        """A diagonal whose exponentials float32 can hold."""
        inside = between(-MOST_LOG_SCALE, MOST_LOG_SCALE, "")
        diagonal = Rule(f"within ±{MOST_LOG_SCALE:g} on the diagonal", lambda t: inside.broken(t.diagonal()))
        return {"numbers": FINITE & diagonal}

    def _factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self.numbers.to(like)
        lower = numbers.tril(-1) + torch.eye(len(numbers)).to(like)
        return lower, numbers.triu(1) + numbers.diagonal().exp().diag()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """L U x and Σ log U_dd."""
        lower, upper = self._factors(x)
        return x @ upper.T @ lower.T, self.numbers.diagonal().to(x).sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """U⁻¹ L⁻¹ z."""
        lower, upper = self._factors(z)
        inner = torch.linalg.solve_triangular(lower, z.T, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, inner, upper=True).T


class MaskedSpline(Bijection):
    """z_d = g(x_d; numbers of the x before d): a rational-quadratic spline whose numbers a masked network gives.

    Its Jacobian is triangular in the network's order, so log |det| = Σ_d log g'(x_d). With each dimension at a place of its
    own this is an autoregressive flow: one pass forward, one piece of a pass a dimension back. With two places it is a
    coupling layer: one pass either way (Durkan et al. 2019, "Neural spline flows", section 4).

    The network sees x clamped to the bound: an outlier in one dimension then cannot drive the splines of the others, however
    far out it is. Any function of the x before d makes a density; this one stays in the range that was trained on.

    Args:
        dims: D.
        order: the places of the dimensions, as `jensen.nn.masked.Masked` takes them.
        bins: K of each spline.
        bound: the splines are the identity outside [-bound, bound].
        width: of the network.
        depth: its residual blocks.
        dropout: in them.
        context_dim: size of a context that every spline may see; 0 for none.
    """

    def __init__(
        self,
        dims: int,
        order: Sequence[int | Sequence[int]],
        *,
        bins: int,
        bound: float,
        width: int,
        depth: int,
        dropout: float = 0.0,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.bound = bound
        self.network = Masked(dims, parameters_of(bins), width, depth, order, context_dim, dropout=dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The splines of x, and the sum of their log-slopes."""
        numbers = self.network(self._seen(x), self._own(context))
        z, log_slope = Spline.from_numbers(numbers.to(x), self.bound)(x)
        return z, log_slope.sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The splines undone, place by place."""
        x = torch.zeros_like(z)

        def choose(group: list[int], numbers: Tensor) -> Tensor:
            x[:, group], _ = Spline.from_numbers(numbers.to(z), self.bound).inverse(z[:, group])
            return self._seen(x[:, group])

        self.network.by_place(choose, len(z), self._own(context))
        return x

    def _seen(self, x: Tensor) -> Tensor:
        """What the network sees of x."""
        return x.clamp(-self.bound, self.bound).to(self.network.head.weight)

    def _own(self, context: Tensor | None) -> Tensor | None:
        return None if context is None else context.to(self.network.head.weight)


class Chain(Bijection):
    """Maps one after another."""

    def __init__(self, *maps: Bijection) -> None:
        super().__init__()
        self.maps = nn.ModuleList(maps)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Through all of them; their log-determinants add up."""
        total = x.new_zeros(len(x))
        for each in self.maps:
            x, log_det = each(x, context)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Back through all of them."""
        for each in reversed(self.maps):
            assert isinstance(each, Bijection)
            z = each.inverse(z, context)
        return z


def log_density(
    flow: Bijection, x: Float[Tensor, "B D"], context: Float[Tensor, "B C"] | None = None
) -> Float[Tensor, " B"]:
    """log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|."""
    z, log_det = flow(x, context)
    return log_det - 0.5 * z.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
