"""Closed forms between normals, and between mixtures of normals where there are any.

With δ = a - b and p = N(a, A), q = N(b, B):

    bhattacharyya  ⅛ δᵀ M⁻¹ δ + ½ log |M| / √(|A| |B|),  M = ½ (A + B)       (Kailath 1967, eq. 24)
    wasserstein-2  ‖δ‖² + tr(A + B - 2 (A^½ B A^½)^½)                        (Dowson and Landau 1982; Bures)
    wasserstein-1  E |δ + (σ_p - σ_q) Z| on the line: quantiles are a + σ_p z and b + σ_q z
    tv             2 Φ(½ √(δᵀ A⁻¹ δ)) - 1 for A = B
    E k(X, Y)      |I + (A + B)/h²|^(-½) exp(-½ δᵀ (h² I + A + B)⁻¹ δ)
    E |X - Y|      s √(2/π) exp(-δ²/2s²) + δ (1 - 2 Φ(-δ/s)),  s² = A + B    on the line (a folded normal)

The last two are linear in either law, so they hold for mixtures pair by pair.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from jensen.distributions.density import log_masses

MOST_CELLS = 1 << 22


@dataclass(frozen=True)
class Normals:
    """Σ w_k N(m_k, S_k): `weights (k,)`, `means (k, d)`, `covariances (k, d, d)`."""

    weights: Float64[Tensor, " k"]
    means: Float64[Tensor, "k d"]
    covariances: Float64[Tensor, "k d d"]


def normals_of(d: Distribution) -> Normals | None:
    """A normal or a mixture of normals, float64, over vectors; None for others and for more than 4 million cells."""
    if isinstance(d, MixtureSameFamily):
        weights, parts = log_masses(d.mixture_distribution).exp(), d.component_distribution
    else:
        weights, parts = torch.ones(1, dtype=torch.float64), d
    count, dims = len(weights), d.event_shape.numel()
    if count * dims * dims > MOST_CELLS or len(d.event_shape) > 1:
        return None
    if isinstance(parts, MultivariateNormal | LowRankMultivariateNormal):
        return Normals(weights, parts.loc.reshape(count, dims), parts.covariance_matrix.reshape(count, dims, dims))
    base = parts.base_dist if isinstance(parts, Independent) else parts
    if type(base) is not Normal:
        return None
    return Normals(weights, base.loc.reshape(count, dims), torch.diag_embed(base.scale.square().reshape(count, dims)))


def bhattacharyya(p: Normals, q: Normals) -> float | None:
    """The Bhattacharyya distance of two single normals."""
    if len(p.weights) > 1 or len(q.weights) > 1:
        return None
    (a, A), (b, B) = (p.means[0], p.covariances[0]), (q.means[0], q.covariances[0])
    M = 0.5 * (A + B)
    determinants = torch.logdet(M) - 0.5 * (torch.logdet(A) + torch.logdet(B))
    return float(0.125 * _square(a - b, M) + 0.5 * determinants)


def total_variation(p: Normals, q: Normals) -> float | None:
    """Of two single normals with one covariance."""
    if len(p.weights) > 1 or len(q.weights) > 1 or not torch.equal(p.covariances, q.covariances):
        return None
    distance = float(_square(p.means[0] - q.means[0], p.covariances[0])) ** 0.5
    return math.erf(distance / math.sqrt(8))


def wasserstein(p: Normals, q: Normals, order: int) -> float | None:
    """W_2 of two single normals; W_1 of two on the line."""
    if len(p.weights) > 1 or len(q.weights) > 1 or (order == 1 and p.means.shape[1] > 1):
        return None
    (a, A), (b, B) = (p.means[0], p.covariances[0]), (q.means[0], q.covariances[0])
    if p.means.shape[1] == 1:
        shift, spread = float(a - b), float(A.sqrt() - B.sqrt())
        return folded(shift, abs(spread)) if order == 1 else math.hypot(shift, spread)
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp(min=0).sqrt().sum()
    bures = 0.0 if torch.equal(A, B) else float(A.trace() + B.trace() - 2 * cross)
    return math.sqrt(max(0.0, float((a - b).square().sum()) + bures))


def energy(p: Normals, q: Normals) -> float | None:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of mixtures on the line."""
    if p.means.shape[1] > 1:
        return None

    def mean(a: Normals, b: Normals) -> float:
        """E|X - Y| of X from a and Y from b."""
        shift = a.means - b.means.T
        spread = (a.covariances[:, 0] + b.covariances[:, 0].T).sqrt()
        each = spread * math.sqrt(2 / math.pi) * (-0.5 * (shift / spread).square()).exp()
        each = each + shift * (1 - 2 * torch.special.ndtr(-shift / spread))
        return float(a.weights @ each @ b.weights)

    return max(0.0, 2 * mean(p, q) - mean(p, p) - mean(q, q))


def mmd(p: Normals, q: Normals, bandwidth: float) -> float:
    """The squared maximum mean discrepancy of mixtures under a Gaussian kernel."""
    h2 = bandwidth * bandwidth
    eye = torch.eye(p.means.shape[1], dtype=torch.float64)

    def mean(a: Normals, b: Normals) -> float:
        """E k(X, Y) of X from a and Y from b."""
        total = 0.0
        for weight, centre, covariance in zip(a.weights, a.means, a.covariances, strict=True):
            wide = h2 * eye + covariance + b.covariances
            log_kernel = -0.5 * (_square(b.means - centre, wide) + torch.logdet(wide / h2))
            total += float(weight * (b.weights @ log_kernel.exp()))
        return total

    return max(0.0, mean(p, p) + mean(q, q) - 2 * mean(p, q))


def folded(shift: float, spread: float) -> float:
    """E |shift + spread Z|."""
    if spread == 0:
        return abs(shift)
    ratio = shift / spread
    return spread * math.sqrt(2 / math.pi) * math.exp(-0.5 * ratio**2) + shift * math.erf(ratio / math.sqrt(2))


def _square(shift: Tensor, covariance: Tensor) -> Tensor:
    """shiftᵀ covariance⁻¹ shift."""
    return (shift * torch.linalg.solve(covariance, shift[..., None])[..., 0]).sum(-1)
