"""The prior that keeps components alive, and the penalty it adds to the log-likelihood.

    log p(w) = a Σ_k log w_k,                                    a Dirichlet with every α = 1 + a,
    log p(Σ) = -½ c Σ_k [log |Σ_k| + tr(Σ_k⁻¹ V)],               an inverse Wishart with ν + d + 1 = c and Ψ = c V,

both up to a constant (Fraley and Raftery 2007, "Bayesian regularization for normal mixture estimation and model-based
clustering"). Each says what so many rows would say: a component's weight counts a rows more, its covariance is averaged
with c rows of covariance V, the mode of the prior. As |Σ_k| → 0 the trace wins over the logarithm, so for c > 0 the
penalised likelihood is bounded and no component collapses. A covariance that components share counts once.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MIXED_IN = 0.01


@dataclass(frozen=True)
class Prior:
    """a, c and V.

    Args:
        counts: a, rows added to every component's count; 0 for none.
        rows: c, rows of covariance V added to every covariance; 0 for none.
        mode: V `(d, d)`, or its diagonal `(d,)` where covariances are diagonal, in the units of the data squared.
    """

    counts: float
    rows: float
    mode: Tensor

    @property
    def variances(self) -> Tensor:
        """The diagonal of V, `(d,)`."""
        return self.mode.diagonal() if self.mode.ndim == 2 else self.mode

    def log_weights(self, weights: Tensor) -> float:
        """a Σ log w_k."""
        return self.counts * float(weights.log().sum()) if self.counts else 0.0


def weakly(spread: Tensor, components: int, *, counts: float, rows: float) -> Prior:
    """The prior for K components in data of this covariance `(d, d)` or these variances `(d,)`.

    V = spread / K^(2/d): K components that tile the data have each 1/K of its volume (Fraley and Raftery 2007, section
    3). A hundredth of the diagonal is mixed in, so that V is definite where columns determine each other.
    """
    if spread.ndim == 2:
        spread = (1 - MIXED_IN) * spread + MIXED_IN * torch.diag(spread.diagonal())
    return Prior(counts, rows, spread * math.exp(-2 * math.log(components) / len(spread)))
