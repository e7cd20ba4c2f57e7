"""The parameters of a mixture, float64: weights w_k, means m_k, and what its covariance structure calls its spread."""

from dataclasses import dataclass

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
