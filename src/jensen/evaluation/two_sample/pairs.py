"""Energy distance and MMD² from one pass over all pairs of rows.

Both are T = A + B - 2 C with A, B the means of a kernel inside the samples and C the mean across: k = exp(-‖x - y‖²/2h²) for mmd,
k = -‖x - y‖ for energy (`distributions.divergence.samples` has the definitions). U leaves a row with itself out and has mean 0 for two
samples of one law of any size; V, the distance of the two empirical laws, is at least 0 and grows as rows get fewer.

Standard error. To first order T is a sum over rows (Hoeffding 1948; Serfling 1980, section 5.3), of 2 a_i / n and 2 b_j / m with

    a_i = mean over the others of k(x_i, ·) inside x - mean of k(x_i, ·) across,    b_j likewise,

so 4 var(a)/n + 4 var(b)/m. That holds where the laws differ. Where they are one law a_i is 0 and what is estimated is twice the
variance of what is left; that variance is known from the permuted labels, N², so the sum taken is max(first² - N², N²).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.divergence.permutations import PairSums, all_pair_sums, p_value
from jensen.distributions.divergence.samples import combined, kernel
from jensen.evaluation.two_sample.measure import Better, Measure

Labels = Float[Tensor, "rows b"]


def pairs(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], h: float, z: Labels) -> list[Measure]:
    """Energy (V), energy (U) and mmd (U).

    Args:
        real: real rows.
        drawn: the others.
        h: the kernel's width, of neither of them if the p-value is to be exact.
        z: `permutations.labels(n, m, …)`: the true labels, and permuted ones for p-value and error.
    """
    n, m = len(real), len(drawn)
    far, near = all_pair_sums(torch.cat([real, drawn]), z, [kernel(None), kernel(h)])
    sizes = f"{n} and {m} rows"
    return [
        _measure("energy", -combined(far, n, m, "V", 0.0), _first_order(far, n, m, 0.0), "lower", f"V, {sizes}"),
        _measure("energy U", -combined(far, n, m, "U", 0.0), _first_order(far, n, m, 0.0), "near", f"U, {sizes}"),
        _measure(
            "mmd", combined(near, n, m, "U", 1.0), _first_order(near, n, m, 1.0), "near", f"U, h {h:.4g}, {sizes}"
        ),
    ]


def _measure(name: str, statistics: Tensor, first: float, better: Better, note: str) -> Measure:
    target = 0.0 if better == "near" else None
    error = joint_error(first, statistics)
    return Measure(name, float(statistics[0]), better, target, error, p_value(statistics), note)


def joint_error(first: float, statistics: Float[Tensor, " b"]) -> float:
    """√max(first² - N², N²) with N the standard deviation of the statistic under permuted labels; `first` where there are none."""
    if len(statistics) < 3:
        return first
    null = float(statistics[1:].var())
    return math.sqrt(max(first**2 - null, null))


def _first_order(sums: PairSums, n: int, m: int, itself: float) -> float:
    """√(4 var(a)/n + 4 var(b)/m)."""
    to_x, to_y = sums.to_x, sums.to_all - sums.to_x
    a = (to_x[:n] - itself) / (n - 1) - to_y[:n] / m
    b = (to_y[n:] - itself) / (m - 1) - to_x[n:] / n
    return 2 * math.sqrt(float(a.var()) / n + float(b.var()) / m)
