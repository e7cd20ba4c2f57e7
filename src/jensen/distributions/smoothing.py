"""Histograms with a added to every count.

    p(j) = (n_j + a) / (n + a k),   n = Σ_j n_j,   k cells

the posterior mean of the probabilities under a symmetric Dirichlet prior with parameter a, and so the posterior predictive;
a = 1 is Laplace's rule of succession (Laplace 1774). Without counts and without a it is uniform.
"""

import math

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor


def log_smoothed(
    counts: Float[Tensor, "*batch k"] | Int64[Tensor, "*batch k"], a: float
) -> Float64[Tensor, "*batch k"]:
    """log (n_j + a) - log Σ_j (n_j + a) of histograms along the last axis.

    Args:
        counts: n, at least 0; weights make them fractions.
        a: at least 0.

    Example:
        >>> [round(float(p), 3) for p in log_smoothed(torch.tensor([0, 1, 4]), 1.0).exp()]
        [0.125, 0.25, 0.625]
    """
    cells = counts.double() + a
    total = cells.sum(-1, keepdim=True)
    return torch.where(total > 0, cells.log() - total.log(), -math.log(counts.shape[-1]))
