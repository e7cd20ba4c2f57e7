"""Covariances without correlations: a variance for every dimension, or one for all of them.

diag       the diagonal of (S_k + c V) / (n_k + c)
spherical  Σ_k = tr(S_k + c V) / (d (n_k + c)) · I
"""

import torch
from torch import Tensor

from jensen.mixture.normals import Diagonal as DiagonalNormals
from jensen.mixture.normals import Normals
from jensen.mixture.parameters import Spread
from jensen.mixture.prior import Prior
from jensen.mixture.statistics import Statistics
from jensen.mixture.structure import Covariance, blended
from jensen.rules import POSITIVE, Rule


class Diagonal(Covariance):
    """Independent dimensions inside a component."""

    word = "diag"
    diagonal = True
    correlations = False

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One variance a component and dimension."""
        return {"variances": (components, dims)}

    def rules(self) -> dict[str, Rule]:
        """Positive."""
        return {"variances": POSITIVE}

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """(S_kj + c v_j) / (n_k + c)."""
        return {"variances": blended(statistics, prior)}

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """Diagonal matrices."""
        return torch.diag_embed(self.variances(spread, components))

    def variances(self, spread: Spread, components: int) -> Tensor:
        """The spread itself."""
        return spread["variances"]

    def normals(self, means: Tensor, spread: Spread) -> Normals:
        """Independent dimensions."""
        return DiagonalNormals(means, self.variances(spread, len(means)))

    def free(self, components: int, dims: int) -> int:
        """K d."""
        return components * dims

    def unconstrained(self, spread: Spread) -> Spread:
        """Logarithms."""
        return {name: tensor.log() for name, tensor in spread.items()}

    def constrained(self, raw: Spread) -> Spread:
        """Exponentials."""
        return {name: tensor.exp() for name, tensor in raw.items()}


class Spherical(Diagonal):
    """One variance a component; the spread has a second axis of length 1."""

    word = "spherical"

    def __init__(self, dims: int) -> None:
        self.dims = dims

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One variance a component."""
        return {"variances": (components, 1)}

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """The mean of diag's variances."""
        return {"variances": blended(statistics, prior).mean(1, keepdim=True)}

    def variances(self, spread: Spread, components: int) -> Tensor:
        """The variance in every dimension."""
        return spread["variances"].expand(-1, self.dims)

    def free(self, components: int, dims: int) -> int:
        """K."""
        return components
