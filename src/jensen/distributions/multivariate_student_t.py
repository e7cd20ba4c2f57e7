"""The multivariate Student-t distribution: a normal whose covariance is scaled by an inverse-gamma draw.

    p(x) = Γ((ν + d)/2) / (Γ(ν/2) (νπ)^(d/2) |Σ|^½) · (1 + (x - m)ᵀ Σ⁻¹ (x - m)/ν)^(-(ν + d)/2)

With Σ = L Lᵀ; Σ is the scale matrix, the covariance is Σ ν/(ν - 2) and exists for ν > 2 only. It is the posterior
predictive of a normal whose mean and covariance are both unknown. (Kotz and Nadarajah 2004, "Multivariate t
distributions and their applications"; Gelman et al. 2013, "Bayesian data analysis", section 3.6.)
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints


class MultivariateStudentT(Distribution):
    """m + L ε √(ν/χ²_ν), ε standard normal.

    Args:
        df: ν, positive.
        loc: m.
        scale_tril: L, lower triangular with a positive diagonal.
        validate_args: check parameters and values, as in torch.

    Example:
        >>> t = MultivariateStudentT(torch.tensor(4.0), torch.zeros(2), torch.eye(2))
        >>> t.covariance_matrix.tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    arg_constraints: ClassVar = {
        "df": constraints.positive,
        "loc": constraints.real_vector,
        "scale_tril": constraints.lower_cholesky,
    }
    support = constraints.real_vector

    def __init__(
        self,
        df: Float[Tensor, "*#batch"],
        loc: Float[Tensor, "*#batch d"],
        scale_tril: Float[Tensor, "*#batch d d"],
        validate_args: bool | None = None,
    ) -> None:
        batch, dims = torch.broadcast_shapes(df.shape, loc.shape[:-1], scale_tril.shape[:-2]), loc.shape[-1]
        self.df, self.loc = df.expand(batch), loc.expand(*batch, dims)
        self.scale_tril = scale_tril.expand(*batch, dims, dims)
        super().__init__(batch, torch.Size([dims]), validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each row."""
        if self._validate_args:
            self._validate_sample(value)
        dims = self.loc.shape[-1]
        centred = (value - self.loc).unsqueeze(-1)
        whitened = torch.linalg.solve_triangular(self.scale_tril, centred, upper=False).squeeze(-1)
        tail = 0.5 * (self.df + dims)
        constant = (
            torch.lgamma(tail)
            - torch.lgamma(0.5 * self.df)
            - 0.5 * dims * (self.df * math.pi).log()
            - self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        )
        return constant - tail * torch.log1p(whitened.square().sum(-1) / self.df)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """A normal draw, divided by the root of a χ² draw over its degrees of freedom."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            eps = torch.randn(shape, dtype=self.loc.dtype)
            half_chi2 = torch._standard_gamma((0.5 * self.df).expand(shape[:-1]))
            scaled = eps * (0.5 * self.df / half_chi2).sqrt().unsqueeze(-1)
            return self.loc + (self.scale_tril @ scaled.unsqueeze(-1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """m; NaN for ν ≤ 1, where there is none."""
        return torch.where(self.df.unsqueeze(-1) > 1, self.loc, math.nan)

    @property
    def covariance_matrix(self) -> Tensor:
        """Σ ν/(ν - 2); NaN for ν ≤ 2, where there is none."""
        df = self.df[..., None, None]
        return torch.where(df > 2, self.scale_tril @ self.scale_tril.mT * df / (df - 2), math.nan)

    @property
    def variance(self) -> Tensor:
        """Of each column: Σ_ii ν/(ν - 2); ∞ for 1 < ν ≤ 2, NaN below."""
        df = self.df.unsqueeze(-1)
        finite = self.scale_tril.square().sum(-1) * df / (df - 2)
        return torch.where(df > 2, finite, torch.where(df > 1, math.inf, math.nan))
