"""Two samples as one list of rows with labels, and the labels permuted.

Under the null hypothesis that both samples are of one law the labels are exchangeable, so among the statistic of the true labels and
those of B random permutations every rank is equally likely, and p = (1 + #{T_b ≥ T}) / (1 + B) is valid for any B
(Phipson and Smyth 2010).

A statistic of all pairs needs, for labels z ∈ {0, 1}^N, the sums over pairs inside x, inside y and across of f(‖r_i - r_j‖).
With F the matrix of f, the sum inside x is zᵀ F z, and F z is taken for all permutations at once, a block of rows of F at a time: F is
never held, and its entries are computed once for 256 permutations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.distributions.divergence.transport_costs import distances
from jensen.noise import Noise

MOST_PAIRS = 1 << 22
BLOCK = 256
ROUNDING = 1e-12


@dataclass(frozen=True)
class PairSums:
    """Σ f over ordered pairs inside x (a row with itself included), inside y, and across, `(b,)` each."""

    inside_x: Float64[Tensor, " b"]
    inside_y: Float64[Tensor, " b"]
    across: Float64[Tensor, " b"]


def labels(n: int, m: int, permutations: int, seed: int) -> Float64[Tensor, "rows b"]:
    """1 where a row counts as one of x: the true labels first, then permutations."""
    true = torch.cat([torch.ones(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)])
    noise = Noise(seed, "permutations")
    return torch.stack([true, *(true[noise.at(b).permutation(n + m)] for b in range(permutations))], 1)


def pair_sums(rows: Float64[Tensor, "rows d"], z: Float64[Tensor, "rows b"], f: Callable[[Tensor], Tensor]) -> PairSums:
    """The sums for each column of labels."""
    blocks = [_pair_sums(rows, part, f) for part in z.split(BLOCK, dim=1)]
    return PairSums(*(torch.cat([getattr(b, name) for b in blocks]) for name in ("inside_x", "inside_y", "across")))


def _pair_sums(rows: Tensor, z: Tensor, f: Callable[[Tensor], Tensor]) -> PairSums:
    size = max(1, MOST_PAIRS // len(rows))
    inside = z.new_zeros(z.shape[1])
    both = z.new_zeros(z.shape[1])  # Σ over i in x, j anywhere
    total = 0.0
    for chunk, own in zip(rows.split(size), z.split(size), strict=True):
        values = f(distances(chunk, rows))
        inside += (own * (values @ z)).sum(0)
        sums = values.sum(1)
        both += sums @ own
        total += float(sums.sum())
    across = both - inside
    return PairSums(inside, total - inside - 2 * across, across)


def p_value(statistics: Float64[Tensor, " b"]) -> float | None:
    """Of the first of them among all; None if it is alone. What equals it up to rounding counts as no smaller."""
    if len(statistics) < 2:
        return None
    slack = ROUNDING * float(statistics.abs().max())
    return float((statistics >= statistics[0] - slack).double().mean())
