"""The multivariate normal by maximum likelihood.

    μ̂ = x̄,   Σ̂ = Σ_i (x_i - x̄)(x_i - x̄)ᵀ/n

(over n: the maximum, not the unbiased estimate). The information gives Var[μ̂_i] = Σ_ii/n and
Var[Σ̂_ij] = (Σ_ii Σ_jj + Σ_ij²)/n. (Anderson 2003, "An introduction to multivariate statistical analysis", section 3.2.)
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from jensen.errors import InputError
from jensen.estimation.family import Estimate, Family, Link, Parameters
from jensen.estimation.sample import Sample

MOST_FREE = 300  # parameters up to which the information is inverted


class MultivariateNormalFamily(Family):
    """N(loc, covariance_matrix) of rows `(n, d)`; coordinates are loc and the Cholesky factor, its diagonal by logarithms."""

    word: ClassVar[str] = "multivariate-normal"
    links: ClassVar = {"loc": "identity", "covariance_matrix": "identity"}

    def check(self, sample: Sample) -> None:
        """More rows than dimensions, none of which the others determine."""
        rows, dims = sample.x.shape
        deviation = sample.x - sample.mean(sample.x)
        scale = sample.mean(deviation.square()).sqrt()
        if rows <= dims or float(scale.min()) == 0:
            raise InputError(
                f"{rows} rows of {dims} dimensions, one of them constant or no more rows than dimensions: the likelihood of "
                f"{self.word!r} grows without bound as the normal flattens, so there is no maximum; give more rows"
            )
        weighted = (deviation / scale) * (sample.w / sample.w.sum()).sqrt()[:, None]
        least = float(torch.linalg.svdvals(weighted)[-1]) ** 2
        if least < 1e-14:
            raise InputError(
                f"the correlations of the {dims} dimensions are singular (least eigenvalue {least:.1g}): the likelihood of "
                f"{self.word!r} grows without bound, so there is no maximum; drop dimensions that others determine"
            )

    def estimate(self, sample: Sample) -> Estimate:
        """Mean and covariance over n."""
        loc = sample.mean(sample.x)
        centred = sample.x - loc
        covariance = (centred * sample.w[:, None]).T @ centred / sample.n
        dims = len(loc)
        many = dims + dims * (dims + 1) // 2
        reason = (
            f"the information of {many} parameters is not inverted (at most {MOST_FREE})" if many > MOST_FREE else None
        )
        return Estimate({"loc": loc, "covariance_matrix": 0.5 * (covariance + covariance.T)}, reason)

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's MultivariateNormal."""
        return MultivariateNormal(parameters["loc"], parameters["covariance_matrix"], validate_args=check)

    def parameters(self, phi: Tensor) -> Parameters:
        """Σ = L Lᵀ."""
        dims = _dims_of(len(phi))
        lower = torch.tril_indices(dims, dims, -1)
        factor = phi.new_zeros(dims, dims).index_put((lower[0], lower[1]), phi[2 * dims :])
        factor = factor + phi[dims : 2 * dims].exp().diag()
        return {"loc": phi[:dims], "covariance_matrix": factor @ factor.T}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Loc, log diagonal and the rest of L."""
        factor = torch.linalg.cholesky(parameters["covariance_matrix"])
        lower = torch.tril_indices(len(factor), len(factor), -1)
        return torch.cat([parameters["loc"], factor.diagonal().log(), factor[lower[0], lower[1]]])

    def link_of_each(self, parameters: Mapping[str, Tensor]) -> list[Link]:
        """Variances on the scale of logarithms."""
        dims = len(parameters["loc"])
        log: Link = "log"
        plain: Link = "identity"
        return [plain] * dims + [log if i % (dims + 1) == 0 else plain for i in range(dims * dims)]


def _dims_of(free: int) -> int:
    """d of d + d (d + 1)/2 coordinates."""
    return next(d for d in range(1, free + 1) if d + d * (d + 1) // 2 == free)
