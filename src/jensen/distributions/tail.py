"""How heavy is a tail? The shape k of a generalised Pareto distribution fitted to the largest of many draws.

Beyond a high threshold the exceedances y of almost any law are nearly generalised Pareto, P(Y > y) = (1 + k y/σ)^(-1/k),
and then moments below order 1/k are finite, those above are not (Pickands 1975). For importance weights: the variance is
finite for k < ½, the mean for k < 1 (Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance
sampling", section 3). The fit is that of Zhang and Stephens (2009, "A new and efficient estimation method for the
generalized Pareto distribution"), an average over a profile likelihood in b = -k/σ, with the weak prior of Vehtari
et al. (their appendix C): k is drawn to ½ as if by ten more draws.
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

LEAST_DRAWS = 100
PRIOR_DRAWS, PRIOR_SHAPE = 10, 0.5


def pareto_k(log_values: Float[Tensor, "draws *B"]) -> Float64[Tensor, "*B"] | None:
    """k̂ of the upper tail of positive values given by their logarithms; None ("not available") below 100 draws.

    The tail is the largest min(n/5, 3√n) of n draws.

    Args:
        log_values: independent draws along the first dimension; -inf is a value of 0.

    Returns:
        k̂; -inf where the largest values are all equal, so that there is no tail, and +inf where all but a few vanish
        beside the largest.

    Example:
        >>> u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
        >>> round(float(pareto_k(-0.5 * u.log())), 1)  # the values u^(-1/2)
        0.5
    """
    n = len(log_values)
    if n < LEAST_DRAWS:
        return None
    size = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    log_values = log_values.to(torch.float64)
    top = log_values.topk(size + 1, dim=0).values.flip(0)
    scaled = (top - top[-1]).exp()  # units do not matter
    return shape_of(scaled[1:] - scaled[0], prior=True)


def shape_of(exceedances: Float64[Tensor, "n *B"], *, prior: bool = False) -> Float64[Tensor, "*B"]:
    """Zhang and Stephens's k̂ of exceedances in rising order.

    Args:
        exceedances: over the threshold, not negative, rising along the first dimension.
        prior: whether to add the prior of Vehtari et al., which matters for few draws.
    """
    n = len(exceedances)
    quarter, largest = exceedances[int(n / 4 + 0.5) - 1], exceedances[-1]
    usable = quarter > 0
    x = torch.where(
        usable, exceedances, torch.arange(1.0, n + 1, dtype=torch.float64).reshape(-1, *[1] * quarter.dim())
    )
    b = _grid(x)
    k = torch.log1p(-b[:, None] * x).mean(1)
    fit = n * ((-b / k).log() - k - 1)
    mean = (b * fit.softmax(0)).sum(0)
    shape = torch.log1p(-mean * x).mean(0)
    if prior:
        shape = (n * shape + PRIOR_DRAWS * PRIOR_SHAPE) / (n + PRIOR_DRAWS)
    degenerate = torch.where(largest > 0, math.inf, -math.inf).to(torch.float64)
    return torch.where(usable, shape, degenerate)


def _grid(x: Float64[Tensor, "n *B"]) -> Float64[Tensor, "m *B"]:
    """Zhang and Stephens's values of b = -k/σ, all below 1/max x (their equation 7)."""
    n = len(x)
    m = 30 + int(math.sqrt(n))
    step = 1 - (m / (torch.arange(1, m + 1, dtype=torch.float64) - 0.5)).sqrt()
    return 1 / x[-1] + step.reshape(-1, *[1] * (x.dim() - 1)) / (3 * x[int(n / 4 + 0.5) - 1])
