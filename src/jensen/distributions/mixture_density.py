"""Regression as a distribution: p(y | x), a mixture of normals whose numbers a network reads off x.

    p(y | x) = Σ_k π_k(x) N(y; μ_k(x), L_k(x) L_k(x)ᵀ)

(Bishop 1994, "Mixture density networks", equations 22 and 23, there with one width a component; π by a softmax and widths by
exponentials as in 25 and 26). L_k is triangular with a positive diagonal. With one component it is regression with error
bars that depend on x (Nix and Weigend 1994, "Estimating the mean and variance of the target probability distribution").

The network does not start from nothing: it says how y differs from a linear regression y = a + Aᵀx + error,

    μ_k(x) = a + Aᵀx + c_k + R m_k(x),   L_k(x) = R T_k(x),   π(x) = softmax l(x),

where T_k is triangular with diagonal exp(s_k(x)). A network that puts out zeros for l, m, s and the rest of T leaves the
linear regression: exactly with one component, where c = 0 and R Rᵀ is the covariance Σ of its errors. Several components that
are equal would have equal gradients and stay equal for ever, so they start apart, at centres c_k whose spread R gives back:
R Rᵀ + Cov(c) = Σ. Mean and covariance are those of the linear regression, and the shape nearly: with APART of 0.3 the
divergence is about APART⁸/12, 5·10⁻⁶ nats. (With diagonal L, Σ is diagonal, and in several dimensions Cov(c) is so in part.)

|s| stays below MOST_LOG_SCALE: a component cannot close in on one row until its density is infinite.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from jensen.distributions.conditional import Conditional

Covariance = Literal["full", "diag"]
APART = 0.3  # of the first centres, in standard deviations of the errors
MOST_LOG_SCALE = 7.0  # e⁻⁷, a thousandth of an error's standard deviation


def outputs_of(dims: int, n_components: int, covariance: Covariance) -> int:
    """How many numbers describe p(y | x): for each component a logit, a mean, and the triangle T or its diagonal."""
    triangle = dims * (dims - 1) // 2 if covariance == "full" else 0
    return n_components * (1 + 2 * dims + triangle)


class MixtureDensity(Conditional):
    """p(y | x) of y `(D,)` given x `(F,)`, both in the units of the data.

    Args:
        network: standardised x `(B, F)` → `(B, outputs_of(D, K, covariance))`, zeros at first.
        features: F.
        dims: D.
        n_components: K.
        covariance: whether L is a triangle (full) or its diagonal alone (diag).

    Example:
        >>> network = nn.Linear(2, outputs_of(1, 3, "full"))
        >>> MixtureDensity(network, 2, 1, n_components=3)(torch.zeros(5, 2)).batch_shape
        torch.Size([5])
    """

    shift: Tensor
    scale: Tensor
    intercept: Tensor
    slope: Tensor
    centres: Tensor
    spread: Tensor

    def __init__(
        self,
        network: nn.Module,
        features: int,
        dims: int,
        *,
        n_components: int = 1,
        covariance: Covariance = "full",
    ) -> None:
        super().__init__()
        self.network, self.dims, self.n_components, self.covariance = network, dims, n_components, covariance
        beginning = {
            "shift": torch.zeros(features),
            "scale": torch.ones(features),
            "intercept": torch.zeros(dims),
            "slope": torch.zeros(features, dims),
            "centres": torch.zeros(n_components, dims),
            "spread": torch.eye(dims),
        }
        for name, value in beginning.items():
            self.register_buffer(name, value.double())

    def begin(
        self,
        shift: Float[Tensor, " F"],
        scale: Float[Tensor, " F"],
        intercept: Float[Tensor, " D"],
        slope: Float[Tensor, "F D"],
        factor: Float[Tensor, "D D"],
    ) -> None:
        """Begin at a linear regression y = intercept + slopeᵀ (x - shift)/scale + factor ε, ε standard normal.

        Args:
            shift: of x.
            scale: of x.
            intercept: of y.
            slope: for standardised x.
            factor: lower triangular, of the errors' covariance; diagonal if L is.
        """
        apart = _apart(self.n_components, self.dims)
        left = torch.eye(self.dims, dtype=torch.float64) - apart.T @ apart / self.n_components
        left = left if self.covariance == "full" else left.diagonal().diag()
        for name, value in {
            "shift": shift,
            "scale": scale,
            "intercept": intercept,
            "slope": slope,
            "centres": apart @ factor.T,
            "spread": factor @ torch.linalg.cholesky(left),
        }.items():
            getattr(self, name).copy_(value)

    def forward(self, given: Float[Tensor, "B F"]) -> Distribution:
        """p(y | x) of each row: batch_shape `(B,)`, event_shape `(D,)`, float64; the network in its own precision."""
        log_weights, means, factors = self.parts(given)
        # not validated: training must be able to meet a NaN, and skip the step
        if self.n_components == 1:
            return MultivariateNormal(means[:, 0], scale_tril=factors[:, 0], validate_args=False)
        normals = MultivariateNormal(means, scale_tril=factors, validate_args=False)
        return MixtureSameFamily(Categorical(logits=log_weights, validate_args=False), normals, validate_args=False)

    def parts(
        self, given: Float[Tensor, "B F"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K D"], Float[Tensor, "B K D D"]]:
        """log π_k(x), μ_k(x) and L_k(x)."""
        x = (given.double() - self.shift) / self.scale
        numbers = self.network(x.to(next(self.network.parameters()))).double()
        logits, rest = numbers.split([self.n_components, numbers.shape[1] - self.n_components], 1)
        mean, log_scale, lower = _cut(rest.unflatten(1, (self.n_components, -1)), self.dims)
        triangle = (MOST_LOG_SCALE * torch.tanh(log_scale / MOST_LOG_SCALE)).exp().diag_embed()
        if self.covariance == "full":
            row, column = torch.tril_indices(self.dims, self.dims, -1)
            triangle[..., row, column] = lower
        linear = self.intercept + x @ self.slope
        means = linear[:, None] + self.centres + mean @ self.spread.T
        return logits.log_softmax(1), means, self.spread @ triangle


def _cut(numbers: Tensor, dims: int) -> list[Tensor]:
    """Mean, logarithm of the diagonal, and what is below it."""
    return list(numbers.split([dims, dims, numbers.shape[2] - 2 * dims], 2))


def _apart(n_components: int, dims: int) -> Tensor:
    """Centres `(K, D)` with mean 0 and variances that sum to APART²; in each dimension the same steps, in turned order."""
    steps = torch.linspace(-1, 1, n_components, dtype=torch.float64) if n_components > 1 else torch.zeros(1).double()
    steps = steps / steps.square().mean().sqrt().clamp(min=1e-9)
    turned = torch.stack([steps.roll(d) for d in range(dims)], 1)
    return APART / dims**0.5 * turned
