"""The prior that keeps components alive, and the penalty it adds to the log-likelihood.

    log p(w) = a Σ_k log w_k,                                    a Dirichlet with every α = 1 + a,
    log p(Σ) = -½ c Σ_k [log |Σ_k| + tr(Σ_k⁻¹ V)],               an inverse Wishart with ν + d + 1 = c and Ψ = c V,

both up to a constant (Fraley and Raftery 2007, "Bayesian regularization for normal mixture estimation and model-based
clustering"). Each says what so many rows would say: a component's weight counts a rows more, its covariance is averaged
with c rows of covariance V, the mode of the prior. As |Σ_k| → 0 the trace wins over the logarithm, so for c > 0 the
penalised likelihood is bounded and no component collapses. A covariance that components share counts once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MIXED_IN, LEAST = 0.01, 1e-6


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

    def log_weights(self, weights: Tensor) -> float:
        """a Σ log w_k."""
        return self.counts * float(weights.log().sum()) if self.counts else 0.0


def weakly(within: Tensor, variance: Tensor, *, counts: float, rows: float) -> Prior:
    """The prior whose V is the covariance inside clusters.

    The covariance of all rows, shrunk to the volume of one of K components as Fraley and Raftery 2007 have it, holds the
    distances between clusters, and widens small components that lie far apart.

    Args:
        within: pooled covariance inside clusters, `(d, d)` or its diagonal `(d,)`. A hundredth of the diagonal is mixed
            in, so that V is definite where columns determine each other.
        variance: of all rows, `(d,)`; a millionth of it is added, so that V is definite where rows are repeated.
        counts: a.
        rows: c.
    """
    if within.ndim == 1:
        return Prior(counts, rows, within + LEAST * variance)
    mixed = (1 - MIXED_IN) * within + torch.diag(MIXED_IN * within.diagonal() + LEAST * variance)
    return Prior(counts, rows, mixed)
