"""The one integral of every multistep solver: a polynomial through values at known places, against an exponential.

Along the way down from noise to data let l = log(α/σ) = λ/2. With ε fixed x/σ = (α/σ) x_0 + ε, so the probability flow is

    d(x/σ) = x̂_0 d(α/σ),   equally   d(x/α) = ε̂ d(σ/α),

and the stochastic process that forgets ε at the rate τ² (τ = 1 is the reverse SDE) goes from l_t to l_s = l_t + h by

    x_s = (σ_s/σ_t) e^(-τ²h) x_t + α_s ∫_0^h (1 + τ²) e^(-(1+τ²)u) x̂_0(l_s - u) du + σ_s sqrt(1 - e^(-2τ²h)) z

(Lu et al. 2022, "DPM-Solver++", proposition 4.1; Xue et al. 2023, "SA-Solver", proposition 4.2). A solver of order q puts for x̂_0 the
polynomial of degree q - 1 through its last q values, and what is left are integrals of Lagrange's polynomials. They are computed by
Gauss–Legendre quadrature for the places at hand, so that any grid keeps the order.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

POINTS = 48  # of the quadrature: exact to rounding for the exponential of steps up to some tens


def lagrange(nodes: Float64[Tensor, " q"], at: Float64[Tensor, " n"]) -> Float64[Tensor, "q n"]:
    """The polynomials that are 1 at one node and 0 at the others."""
    away = at[None] - nodes[:, None]
    rows = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        above = torch.cat([away[:j], away[j + 1 :]])
        rows.append((above / (node - others)[:, None]).prod(0))
    return torch.stack(rows)


def exponential_weights(
    nodes: Float64[Tensor, " q"], start: Tensor, end: Tensor, rate: float = 1.0
) -> Float64[Tensor, " q"]:
    """r ∫_0^h e^(-ru) L_j(l_s - u) du for h = l_s - l_t; they sum to 1 - e^(-rh).

    Args:
        nodes: places l at which x̂_0 is known.
        start: l_t.
        end: l_s.
        rate: r = 1 + τ².

    Example:
        >>> zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        >>> round(float(exponential_weights(zero[None], zero, one)), 6)
        0.632121
    """
    u, w = _quadrature(end - start)
    return lagrange(nodes, end - u) @ (rate * torch.exp(-rate * u) * w)


def plain_weights(nodes: Float64[Tensor, " q"], start: Tensor, end: Tensor) -> Float64[Tensor, " q"]:
    """∫ L_j from start to end; they sum to end - start.

    Example:
        >>> nodes = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> [round(w, 6) for w in plain_weights(nodes, nodes[0], nodes[0] + 1).tolist()]  # Adams and Bashforth's 3/2 and -1/2
        [1.5, -0.5]
    """
    u, w = _quadrature(end - start)
    return lagrange(nodes, start + u) @ w


def _quadrature(length: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights on [0, length]."""
    points, weights = _unit()
    return points * length, weights * length


@lru_cache(maxsize=1)
def _unit() -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(POINTS)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)
