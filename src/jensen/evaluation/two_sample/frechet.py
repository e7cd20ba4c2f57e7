"""Fréchet and kernel distance in a feature space.

Fréchet   ‖m₁ - m₂‖² + tr(S₁ + S₂ - 2 (S₁ S₂)^½), the squared 2-Wasserstein distance of two normals with these moments
(Dowson and Landau 1982; Heusel et al. 2017); covariances with n - 1, the trace of the root from the eigenvalues of S₁ S₂.
Biased upwards, by about tr-sized amounts over n: numbers of unequal n can not be compared
kernel    unbiased MMD² with the kernel (aᵀb/d + 1)³, equal n (Bińkowski et al. 2018); its error from disjoint blocks of rows
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.evaluation.two_sample.measure import Measure

BLOCKS, LEAST = 10, 20


def frechet(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], told: str = "") -> Measure:
    """The squared distance, with its sample sizes."""
    value = between_normals(real.mean(0), _covariance(real), drawn.mean(0), _covariance(drawn))
    few = min(len(real), len(drawn)) <= real.shape[1]
    warned = "; fewer rows than features: the covariance is singular, and the number mostly noise" if few else ""
    note = f"{len(real)} and {len(drawn)} rows, {told}{warned}"
    return Measure("frechet", value, "lower", note=note)


def between_normals(
    mean: Float[Tensor, " d"], cov: Float[Tensor, "d d"], other: Float[Tensor, " d"], its: Float[Tensor, "d d"]
) -> float:
    """The squared 2-Wasserstein distance of N(mean, cov) and N(other, its)."""
    values, vectors = torch.linalg.eigh(cov)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ its @ root).clamp(min=0).sqrt().sum()
    return float((mean - other).square().sum() + cov.trace() + its.trace() - 2 * cross)


def _covariance(rows: Tensor) -> Tensor:
    return rows.T.cov().reshape(rows.shape[1], rows.shape[1])


def kernel(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], told: str = "") -> Measure:
    """The unbiased squared distance, the mean over disjoint blocks."""
    count = min(len(real), len(drawn))
    blocks = max(2, min(BLOCKS, count // LEAST))
    size = count // blocks
    values = torch.stack(
        [_kernel(real[i * size : (i + 1) * size], drawn[i * size : (i + 1) * size]) for i in range(blocks)]
    )
    error = float(values.std()) / math.sqrt(blocks)
    note = f"{blocks} blocks of {size} and {size} rows, {told}"
    return Measure("kernel distance", float(values.mean()), "near", 0.0, error, note=note)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    n, d = a.shape

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / d + 1).pow(3)

    inside = sum((k(x, x).sum() - k(x, x).diagonal().sum()) / (n * (n - 1)) for x in (a, b))
    found: Tensor = inside - 2 * k(a, b).mean()
    return found
