"""The parameters of a mixture, float64: weights w_k, means m_k, and what its covariance structure calls its spread."""

from dataclasses import dataclass

import torch
from torch import Tensor

Spread = dict[str, Tensor]


@dataclass(frozen=True)
class Parameters:
    """Σ_k w_k N(m_k, Σ_k): `weights (K,)`, `means (K, d)`, and the tensors from which a `Covariance` makes Σ_k."""

    weights: Tensor
    means: Tensor
    spread: Spread

    @property
    def components(self) -> int:
        """K."""
        return len(self.weights)

    @property
    def dims(self) -> int:
        """d."""
        return self.means.shape[1]


def unit(name: str, shape: tuple[int, ...]) -> Tensor:
    """What standard normal components have of this name in their spread."""
    if name.startswith("covariance"):
        matrices = torch.zeros(shape, dtype=torch.float64)
        matrices.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        return matrices
    return torch.full(shape, 0.0 if name == "loadings" else 1.0, dtype=torch.float64)


def untouched(parameters: Parameters) -> bool:
    """Whether they are those of a new model: equal weights, standard normals."""
    new = all(torch.equal(t, unit(name, t.shape).to(t)) for name, t in parameters.spread.items())
    return new and not bool(parameters.means.any()) and bool((parameters.weights == parameters.weights[0]).all())
