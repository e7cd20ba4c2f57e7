"""Full covariances, one a component or one for all: the maximum is a formula.

    full   Σ_k = (S_k + c V) / (n_k + c)
    tied   Σ   = (Σ_k S_k + c V) / (Σ_k n_k + c)

Free parameters are the Cholesky factor's, its diagonal by the logarithm.
"""

import torch
from torch import Tensor

from jensen.mixture.normals import cholesky
from jensen.mixture.parameters import Spread
from jensen.mixture.prior import Prior
from jensen.mixture.statistics import Statistics
from jensen.mixture.structure import Covariance, blended
from jensen.rules import POSITIVE_DEFINITE, Rule


class Full(Covariance):
    """Any Σ_k."""

    word = "full"

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One matrix a component."""
        return {"covariances": (components, dims, dims)}

    def rules(self) -> dict[str, Rule]:
        """Positive definite."""
        return {"covariances": POSITIVE_DEFINITE}

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """(S_k + c V) / (n_k + c)."""
        return {"covariances": blended(statistics, prior)}

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """The spread itself."""
        return spread["covariances"]

    def free(self, components: int, dims: int) -> int:
        """K d (d + 1) / 2."""
        return components * dims * (dims + 1) // 2

    def unconstrained(self, spread: Spread) -> Spread:
        """Cholesky factors with the logarithm of their diagonal."""
        return {"covariances": _log_diagonal(cholesky(spread["covariances"]))}

    def constrained(self, raw: Spread) -> Spread:
        """L Lᵀ."""
        factor = _exp_diagonal(raw["covariances"])
        return {"covariances": factor @ factor.mT}


class Tied(Covariance):
    """One Σ for all."""

    word = "tied"

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One matrix."""
        return {"covariance": (dims, dims)}

    def rules(self) -> dict[str, Rule]:
        """Positive definite."""
        return {"covariance": POSITIVE_DEFINITE}

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """(Σ S_k + c V) / (n + c)."""
        total = statistics.count.sum() + prior.rows
        blend = (statistics.scatter().sum(0) + prior.rows * statistics.view.of(prior.mode)) / total.clamp(min=1e-300)
        return {"covariance": 0.5 * (blend + blend.mT)}

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """The same matrix K times."""
        return spread["covariance"].expand(components, -1, -1)

    def free(self, components: int, dims: int) -> int:
        """d (d + 1) / 2."""
        return dims * (dims + 1) // 2

    def different(self, components: int) -> int:
        """One."""
        return 1

    def pick(self, spread: Spread, index: Tensor) -> Spread:
        """All components have it."""
        return spread

    def unconstrained(self, spread: Spread) -> Spread:
        """Its Cholesky factor with the logarithm of the diagonal."""
        return {"covariance": _log_diagonal(cholesky(spread["covariance"][None])[0])}

    def constrained(self, raw: Spread) -> Spread:
        """L Lᵀ."""
        factor = _exp_diagonal(raw["covariance"])
        return {"covariance": factor @ factor.mT}


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).log())


def _exp_diagonal(raw: Tensor) -> Tensor:
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())
