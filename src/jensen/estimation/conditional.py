"""`Regression`: a fitted p(y | x), and what can be asked of it.

Everything follows from the weights π_k(x), means μ_k(x) and factors L_k(x) of a mixture of normals:

    log p(y | x) = log Σ_k π_k N(y; μ_k, L_k L_kᵀ),   E[y | x] = Σ_k π_k μ_k,
    Cov[y | x] = Σ_k π_k (L_k L_kᵀ + (μ_k - E[y | x]) (μ_k - E[y | x])ᵀ),
    P(Y ≤ y | x) = Σ_k π_k Φ((y - μ_k)/L_k)   of a single target

(Bishop 2006, "Pattern recognition and machine learning", equations 5.148, 5.158 and 5.160). It is a density of y alone: it
says nothing of which x there are, so x can be neither scored nor drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Distribution

from jensen.data.examples import Examples
from jensen.distributions.mixture_density import MixtureDensity
from jensen.errors import InputError
from jensen.estimation.pairs import Array, pair, table
from jensen.likelihood import LogLikelihood
from jensen.noise import Noise

CELLS_AT_ONCE = 1 << 22
MOST_DRAWS = 1 << 28  # numbers: 2 GiB


@dataclass(frozen=True)
class Regression:
    """p(y | x) of targets y `(B, D)` given x `(B, F)`, or `(B,)` where there is one column; all in the units of the data.

    Attributes:
        model: the conditional distribution.
        steps: how many were taken; 0 for a linear regression.
        held_out: log p(y | x) of the rows that were watched, nats a row, under the weights that were kept. These weights are
            the best of many, so it flatters: score other rows to know. None where no step was taken.
    """

    model: MixtureDensity
    steps: int = 0
    held_out: float | None = None

    @torch.no_grad()
    def distribution(self, x: Array) -> Distribution:
        """p(y | x), with batch_shape `(B,)` and event_shape `(D,)`, float64."""
        return self.model(self._given(x))

    @torch.no_grad()
    def log_likelihood(self, x: Array, y: Array) -> LogLikelihood:
        """log p(y | x) of each row, exact; the network in float32, all else in float64."""
        given, target = self._both(x, y)
        return LogLikelihood(
            value=self._each(lambda part, rows: self.model(part).log_prob(target[rows]), given),
            kind="exact",
            measure="Lebesgue",
            of="regression",
            method="exact",
            event_shape=(self.model.dims,),
            given="p(y|x)",
            rows=Examples(torch.cat((given, target), 1), torch.arange(len(given))).digest(),
            precision="float32",
        )

    @torch.no_grad()
    def mean(self, x: Array) -> Float64[Tensor, "B D"]:
        """E[y | x], the prediction of least expected square."""
        return self._each(lambda part, rows: self.model(part).mean, self._given(x))

    @torch.no_grad()
    def covariance(self, x: Array) -> Float64[Tensor, "B D D"]:
        """Cov[y | x]."""
        return self._each(lambda part, rows: _covariance(*self.model.parts(part)), self._given(x))

    def std(self, x: Array) -> Float64[Tensor, "B D"]:
        """The standard deviation of each target given x."""
        return self.covariance(x).diagonal(dim1=1, dim2=2).sqrt()

    @torch.no_grad()
    def sample(self, x: Array, n: int = 1, *, seed: int = 0) -> Float64[Tensor, "n B D"]:
        """n draws of y for each row of x; those of a row depend on its number, its x and the seed alone.

        Raises:
            InputError: n below 1, or more draws than fit in memory.
        """
        given = self._given(x)
        most = MOST_DRAWS // (len(given) * self.model.dims)
        if not 1 <= n <= most:
            raise InputError(f"n must be at least 1 and at most {most:,} for {len(given)} rows of x, got {n}")
        noise, ids = Noise(seed, "regression"), torch.arange(len(given))

        def drawn(part: Tensor, rows: slice) -> Tensor:
            log_weights, means, factors = self.model.parts(part)
            u = noise.at("component").uniform(ids[rows], (n,))
            eps = noise.at("normal").normal(ids[rows], (n, self.model.dims)).double()
            k = (u[:, :, None] >= log_weights.exp().cumsum(1)[:, None, :-1]).sum(2)
            row = torch.arange(len(part))[:, None]
            return means[row, k] + (factors[row, k] @ eps[..., None])[..., 0]

        return self._each(drawn, given, n * self.model.dims**2).transpose(0, 1).contiguous()

    @torch.no_grad()
    def pit(self, x: Array, y: Array) -> Float64[Tensor, " B"]:
        """P(Y ≤ y | x), the probability integral transform: uniform over the rows if p(y | x) is the truth (Rosenblatt 1952,
        "Remarks on a multivariate transformation"; Dawid 1984, "The prequential approach").

        Raises:
            InputError: several targets, which have no order.
        """
        if self.model.dims != 1:
            raise InputError(f"P(Y ≤ y | x) is for a single target, got {self.model.dims}; fit one of them alone")
        given, target = self._both(x, y)

        def below(part: Tensor, rows: slice) -> Tensor:
            log_weights, means, factors = self.model.parts(part)
            normal = torch.special.ndtr((target[rows] - means[:, :, 0]) / factors[:, :, 0, 0])
            return (log_weights.exp() * normal).sum(1)

        return self._each(below, given)

    def _each(self, value: Callable[[Tensor, slice], Tensor], x: Tensor, cells: int = 0) -> Tensor:
        """Something of each row, as many rows at a time as fit."""
        size = max(1, CELLS_AT_ONCE // (1024 + cells + self.model.n_components * self.model.dims**2))
        return torch.cat([value(x[i : i + size], slice(i, i + size)) for i in range(0, len(x), size)])

    def _given(self, x: Array) -> Tensor:
        return table("x", x, len(self.model.shift))

    def _both(self, x: Array, y: Array) -> tuple[Tensor, Tensor]:
        return pair(self._given(x), table("y", y, self.model.dims))


def _covariance(log_weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """The mean of the covariances and the covariance of the means."""
    weights = log_weights.exp()
    centred = means - (weights[:, :, None] * means).sum(1, keepdim=True)
    each = factors @ factors.mT + centred[..., :, None] * centred[..., None, :]
    return (weights[:, :, None, None] * each).sum(1)
