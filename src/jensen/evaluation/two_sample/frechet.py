"""Fréchet and kernel distance in a feature space.

Fréchet   ‖m₁ - m₂‖² + tr(S₁ + S₂ - 2 (S₁ S₂)^½), the squared 2-Wasserstein distance of two normals with these moments
          (Dowson and Landau 1982; Heusel et al. 2017); covariances with n - 1, the trace of the root from the eigenvalues of S₁ S₂.
          Biased upwards, by an amount that falls as 1/n: numbers of unequal n can not be compared
kernel    unbiased MMD² with the kernel (aᵀb/d + 1)³, equal n (Bińkowski et al. 2018); its error from disjoint blocks of rows

Standard error of Fréchet. Of one drawn row its derivative by the moments is

    φ(x) = 2 (m₁ - m₂)ᵀ (x - m₁) + (x - m₁)ᵀ (I - T) (x - m₁),    T = S₁^-½ (S₁^½ S₂ S₁^½)^½ S₁^-½,

T the optimal map from N(0, S₁) to N(0, S₂) (the first variation of W₂² is twice Kantorovich's potential), and likewise for the other sample:
var(φ)/n + var(ψ)/m, joined with the spread under permuted labels as in `pairs`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.divergence.permutations import p_value
from jensen.evaluation.two_sample.measure import Measure
from jensen.evaluation.two_sample.pairs import joint_error

BLOCKS, LEAST = 10, 20
PERMUTED = 99  # of the permutations: each takes two decompositions
SMALL = 1e-10  # of the greatest eigenvalue: what is below is rounding
Labels = Float[Tensor, "rows b"]


def frechet(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], z: Labels, told: str = "") -> Measure:
    """The squared distance, with its error, p-value and sample sizes.

    Args:
        real: features of real rows.
        drawn: of the others.
        z: `permutations.labels(n, m, …)`.
        told: what the features are.
    """
    n, m, rows = len(real), len(drawn), torch.cat([real, drawn])
    values = torch.tensor([_distance(rows[own], rows[~own]) for own in z.T[: PERMUTED + 1] > 0.5], dtype=torch.float64)
    error = joint_error(_first_order(real, drawn), values)
    few = (
        "; fewer rows than features: the covariance is singular, and the number mostly noise"
        if few_for(n, m, real)
        else ""
    )
    return Measure("frechet", float(values[0]), "lower", None, error, p_value(values), f"{n} and {m} rows, {told}{few}")


def few_for(n: int, m: int, features: Tensor) -> bool:
    """Whether there are too few rows for a covariance of these features."""
    return min(n, m) <= features.shape[1]


def _distance(a: Tensor, b: Tensor) -> float:
    return between_normals(a.mean(0), _covariance(a), b.mean(0), _covariance(b))


def between_normals(
    mean: Float[Tensor, " d"], cov: Float[Tensor, "d d"], other: Float[Tensor, " d"], its: Float[Tensor, "d d"]
) -> float:
    """The squared 2-Wasserstein distance of N(mean, cov) and N(other, its)."""
    root = _power(cov, 0.5)
    cross = torch.linalg.eigvalsh(root @ its @ root).clamp(min=0).sqrt().sum()
    return float((mean - other).square().sum() + cov.trace() + its.trace() - 2 * cross)


def _covariance(rows: Tensor) -> Tensor:
    return rows.T.cov().reshape(rows.shape[1], rows.shape[1])


def _power(cov: Tensor, power: float) -> Tensor:
    """A power of a covariance on the directions that it has."""
    values, vectors = torch.linalg.eigh(cov)
    kept = values > SMALL * values[-1]
    powers = torch.where(kept, values.clamp(min=1e-300), torch.ones_like(values)).pow(power)
    return (vectors * torch.where(kept, powers, torch.zeros_like(powers))) @ vectors.T


def _first_order(a: Tensor, b: Tensor) -> float:
    return math.sqrt(float(_derivative(a, b).var()) / len(a) + float(_derivative(b, a).var()) / len(b))


def _derivative(a: Tensor, b: Tensor) -> Tensor:
    """φ of each row of a."""
    centred, cov = a - a.mean(0), _covariance(a)
    root, back = _power(cov, 0.5), _power(cov, -0.5)
    onto = back @ _power(root @ _covariance(b) @ root, 0.5) @ back
    moved = centred - centred @ onto
    return 2 * centred @ (a.mean(0) - b.mean(0)) + (moved * centred).sum(1)


def kernel_distance(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], told: str = "") -> Measure:
    """The unbiased squared distance, the mean over disjoint blocks."""
    count = min(len(real), len(drawn))
    blocks = max(2, min(BLOCKS, count // LEAST))
    size = count // blocks
    values = torch.stack(
        [_unbiased(real[i * size : (i + 1) * size], drawn[i * size : (i + 1) * size]) for i in range(blocks)]
    )
    error = float(values.std()) / math.sqrt(blocks)
    note = f"{blocks} blocks of {size} and {size} rows, {told}"
    return Measure("kernel distance", float(values.mean()), "near", 0.0, error, note=note)


def _unbiased(a: Tensor, b: Tensor) -> Tensor:
    n, d = a.shape

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / d + 1).pow(3)

    inside = sum((k(x, x).sum() - k(x, x).diagonal().sum()) / (n * (n - 1)) for x in (a, b))
    found: Tensor = inside - 2 * k(a, b).mean()
    return found
