"""Conjugate priors of normal rows, with known and unknown variance.

With n rows of mean x̄ and scatter S = Σ (x_i - x̄)(x_i - x̄)ᵀ:

    normal - normal, x | μ ~ N(μ, s²), μ ~ N(m, τ²)
        1/τ'² = 1/τ² + n/s²,   m' = τ'² (m/τ² + n x̄/s²),   predictive N(m, τ² + s²)
    normal - inverse gamma, σ² ~ InverseGamma(a, b), μ | σ² ~ N(m, σ²/κ)
        κ' = κ + n,  m' = (κ m + n x̄)/κ',  a' = a + n/2,  b' = b + ½ S + ½ (κ n/κ') (x̄ - m)²
        predictive t_{2a}(m, scale² = b (κ + 1)/(a κ))
    normal - inverse Wishart, Σ ~ IW(ν, Ψ), μ | Σ ~ N(m, Σ/κ)
        κ', m' as above,  ν' = ν + n,  Ψ' = Ψ + S + (κ n/κ') (x̄ - m)(x̄ - m)ᵀ
        predictive t_{ν-d+1}(m, scale matrix Ψ (κ + 1)/(κ (ν - d + 1)))

In one dimension the third is the second, with a = ν/2 and b = Ψ/2. (Gelman et al. 2013, "Bayesian data analysis", sections
2.5, 3.3 and 3.6; Murphy 2007, "Conjugate Bayesian analysis of the Gaussian distribution".)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, InverseGamma, MultivariateNormal, Normal, StudentT

from jensen.distributions.multivariate_student_t import MultivariateStudentT
from jensen.errors import InputError, brief
from jensen.estimation.bayes import Conjugate, number, require_positive
from jensen.estimation.sample import Rows, as_sample


@dataclass(frozen=True)
class NormalNormal(Conjugate):
    """μ ~ N(loc, scale²); a row is N(μ, noise²) with known noise.

    Example:
        >>> posterior = NormalNormal(0.0, 1.0, 1.0).update([2.0])
        >>> round(posterior.loc, 12), round(posterior.scale**2, 12)
        (1.0, 0.5)
    """

    loc: float = 0.0
    scale: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        require_positive(scale=self.scale, noise=self.noise)

    def update(self, x: Rows) -> "NormalNormal":
        """Precisions add."""
        rows = as_sample(x).x
        own, others = self.scale**-2, len(rows) * self.noise**-2
        loc = self.loc + others / (own + others) * (float(rows.mean()) - self.loc)
        return NormalNormal(loc, (own + others) ** -0.5, self.noise)

    def predictive(self) -> Distribution:
        """N(loc, scale² + noise²)."""
        return Normal(number(self.loc), number(math.hypot(self.scale, self.noise)))

    def likelihood(self, *theta: Tensor) -> Distribution:
        """N(μ, noise²)."""
        return Normal(theta[0], number(self.noise))

    def log_prob(self, *theta: Tensor) -> Tensor:
        """The normal's."""
        return Normal(number(self.loc), number(self.scale)).log_prob(theta[0])

    def centre(self) -> tuple[Tensor, ...]:
        """The mean."""
        return (number(self.loc),)


@dataclass(frozen=True)
class NormalInverseGamma(Conjugate):
    """σ² ~ InverseGamma(a, b), μ | σ² ~ N(loc, σ²/rows); a row is N(μ, σ²); θ = (μ, σ²).

    Example:
        >>> NormalInverseGamma(0.0, 1.0, 1.0, 1.0).update([2.0])
        NormalInverseGamma(loc=1.0, rows=2.0, a=1.5, b=2.0)
    """

    loc: float = 0.0
    rows: float = 1.0
    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        require_positive(rows=self.rows, a=self.a, b=self.b)

    def update(self, x: Rows) -> "NormalInverseGamma":
        """As at the top of this file."""
        rows = as_sample(x).x
        n, mean = len(rows), float(rows.mean())
        scatter = float((rows - mean).square().sum()) + self.rows * n / (self.rows + n) * (mean - self.loc) ** 2
        loc = self.loc + n / (self.rows + n) * (mean - self.loc)
        return NormalInverseGamma(loc, self.rows + n, self.a + n / 2, self.b + scatter / 2)

    def predictive(self) -> Distribution:
        """A Student-t."""
        scale = math.sqrt(self.b * (self.rows + 1) / (self.a * self.rows))
        return StudentT(number(2 * self.a), number(self.loc), number(scale))

    def likelihood(self, *theta: Tensor) -> Distribution:
        """N(μ, σ²)."""
        return Normal(theta[0], theta[1].sqrt())

    def log_prob(self, *theta: Tensor) -> Tensor:
        """log p(σ²) + log p(μ | σ²)."""
        mean, variance = theta
        of_mean = Normal(number(self.loc), (variance / self.rows).sqrt()).log_prob(mean)
        return InverseGamma(number(self.a), number(self.b)).log_prob(variance) + of_mean

    def centre(self) -> tuple[Tensor, ...]:
        """The mean of μ, the mode of σ²."""
        return number(self.loc), number(self.b / (self.a + 1))


@dataclass(frozen=True, eq=False)
class NormalInverseWishart(Conjugate):
    """Σ ~ IW(df, scale), μ | Σ ~ N(loc, Σ/rows); a row is N(μ, Σ); θ = (μ, Σ).

    Args:
        loc: m, `(d,)`.
        rows: κ, how many rows the prior is worth for the mean.
        df: ν > d - 1.
        scale: Ψ, `(d, d)`, positive definite.
    """

    loc: Tensor
    rows: float
    df: float
    scale: Tensor

    def __post_init__(self) -> None:
        require_positive(rows=self.rows)
        dims = len(self.loc) if self.loc.ndim == 1 else 0
        if dims == 0 or self.scale.shape != (dims, dims):
            raise InputError(
                f"loc must be (d,) and scale (d, d), got {tuple(self.loc.shape)} and {tuple(self.scale.shape)}"
            )
        if not dims - 1 < self.df < math.inf:
            raise InputError(f"df must be above d - 1 = {dims - 1}, got {self.df}")
        scale = self.scale.double()
        if not torch.equal(scale, scale.T) or int(torch.linalg.cholesky_ex(scale)[1]):
            raise InputError(f"scale must be symmetric and positive definite, got {brief(self.scale.tolist())}")
        object.__setattr__(self, "loc", self.loc.double())
        object.__setattr__(self, "scale", scale)

    @property
    def axes(self) -> int:
        """Rows are vectors."""
        return 2

    def update(self, x: Rows) -> "NormalInverseWishart":
        """As at the top of this file."""
        rows = as_sample(x, axes=2).x
        if rows.shape[1] != len(self.loc):
            raise InputError(f"rows have {rows.shape[1]} dimensions, the prior has {len(self.loc)}")
        n, mean = len(rows), rows.mean(0)
        centred, shift = rows - mean, mean - self.loc
        scatter = centred.T @ centred + self.rows * n / (self.rows + n) * shift[:, None] * shift
        scale = self.scale + 0.5 * (scatter + scatter.T)
        return NormalInverseWishart(self.loc + n / (self.rows + n) * shift, self.rows + n, self.df + n, scale)

    def predictive(self) -> MultivariateStudentT:
        """A multivariate Student-t."""
        df = self.df - len(self.loc) + 1
        scale = self.scale * ((self.rows + 1) / (self.rows * df))
        return MultivariateStudentT(number(df), self.loc, torch.linalg.cholesky(scale))

    def likelihood(self, *theta: Tensor) -> Distribution:
        """N(μ, Σ)."""
        return MultivariateNormal(theta[0], theta[1])

    def log_prob(self, *theta: Tensor) -> Tensor:
        """log p(Σ) + log p(μ | Σ)."""
        mean, covariance = theta
        of_mean = MultivariateNormal(self.loc, covariance / self.rows).log_prob(mean)
        return log_inverse_wishart(covariance, self.df, self.scale) + of_mean

    def centre(self) -> tuple[Tensor, ...]:
        """The mean of μ, the mode of Σ."""
        return self.loc, self.scale / (self.df + len(self.loc) + 1)


def log_inverse_wishart(covariance: Tensor, df: float, scale: Tensor) -> Tensor:
    """log IW(Σ; ν, Ψ) = ½ν log|Ψ| - ½νd log 2 - log Γ_d(½ν) - ½(ν + d + 1) log|Σ| - ½ tr(Ψ Σ⁻¹).

    Args:
        covariance: Σ, `(d, d)`.
        df: ν.
        scale: Ψ, `(d, d)`.
    """
    dims, factor = len(scale), torch.linalg.cholesky(covariance)
    constant = 0.5 * df * (torch.linalg.slogdet(scale)[1] - dims * math.log(2)) - torch.mvlgamma(number(0.5 * df), dims)
    trace = torch.cholesky_solve(scale, factor).trace()
    return constant - (df + dims + 1) * factor.diagonal().log().sum() - 0.5 * trace
