"""Normals with Σ = W Wᵀ + D, D diagonal, W of q columns: no d × d matrix is ever made.

Behind each row stands z ~ N(0, I_q) with x = m + W z + D^½ ε. With M = I + Wᵀ D⁻¹ W (Woodbury),

    E[z | x] = M⁻¹ Wᵀ D⁻¹ (x - m) = ẑ,   Cov[z | x] = M⁻¹,   log |Σ| = log |M| + Σ_j log D_jj,
    (x - m)ᵀ Σ⁻¹ (x - m) = ‖D^-½ (x - m - W ẑ)‖² + ‖ẑ‖²,

a sum of squares, in which nothing cancels. A row with missing cells has the same with W and D on its observed cells, and
its missing ones x_m = m_m + W_m z + D_m^½ ε. (Ghahramani and Hinton 1996, "The EM algorithm for mixtures of factor
analyzers".)
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, LowRankMultivariateNormal

from jensen.mixture.normals import CELLS, LOG_2PI, Given, Normals, cholesky
from jensen.mixture.parameters import Spread
from jensen.mixture.view import Projected, View


class LowRank(Normals):
    """N(m_k, W_k W_kᵀ + D_k).

    Args:
        means: `(K, d)`.
        loadings: W_k, `(K, d, q)`.
        noise: the diagonals of D_k, `(K, d)`.

    Attributes:
        factor: L_k with M_k = L Lᵀ, `(K, q, q)`; `inner` is M_k⁻¹.
        root: T_k = D⁻¹ W L⁻ᵀ, `(K, d, q)`, so that Σ⁻¹ = D⁻¹ - T Tᵀ and Σ⁻¹ W = T L⁻¹.
    """

    kind: Literal["factors"] = "factors"

    def __init__(self, means: Tensor, loadings: Tensor, noise: Tensor) -> None:
        self.means, self.loadings, self.noise = means, loadings, noise
        self.extra = loadings.shape[2]
        self.scaled = loadings / noise[:, :, None]
        self.factor = cholesky(torch.eye(self.extra).to(means) + loadings.mT @ self.scaled)
        self.inner = torch.cholesky_inverse(self.factor)
        self.root = torch.linalg.solve_triangular(self.factor, self.scaled.mT, upper=False).mT
        self.log_det = noise.log().sum(1) + 2 * self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def squares(self, x: Tensor, at: slice) -> Tensor:
        """‖D^-½ (x - m - W ẑ)‖² + ‖ẑ‖²."""
        offset = x - self.means[at, None]
        z = torch.bmm(torch.bmm(offset, self.scaled[at]), self.inner[at])
        rest = offset - torch.bmm(z, self.loadings[at].mT)
        return (rest.square() / self.noise[at, None]).sum(2) + z.square().sum(2)

    def trace(self, mode: Tensor) -> Tensor:
        """tr(D⁻¹ V) - tr(Tᵀ V T), V diagonal."""
        return (mode / self.noise).sum(1) - (mode[:, None] * self.root.square()).sum((1, 2))

    def draw(self, k: Tensor, eps: Tensor) -> Tensor:
        """m_k + W_k z + D_k^½ ε; the last q standard normals are z."""
        d = self.means.shape[1]
        common = (self.loadings[k] @ eps[:, d:, None])[:, :, 0]
        return self.means[k] + common + self.noise[k].sqrt() * eps[:, :d]

    def at(self, k: Tensor) -> Distribution:
        """torch's."""
        return LowRankMultivariateNormal(self.means[k], self.loadings[k], self.noise[k])

    @property
    def _rows(self) -> int:
        """Rows with missing cells that are looked at together: always as many, the last ones filled up."""
        components, d = self.means.shape
        return max(1, min(256, CELLS // (components * max(d, self.extra**2))))

    def groups(self, x: Tensor) -> Iterator[Tensor]:
        """So many rows; patterns do not matter."""
        yield from torch.arange(len(x), device=x.device).split(self._rows)

    def given(self, x: Tensor) -> Given:
        """By the formulas above on observed cells."""
        return _LowRankGiven(self, x, self._rows - len(x))


class _LowRankGiven(Given):
    def __init__(self, normals: LowRank, x: Tensor, more: int) -> None:
        self.normals, rows = normals, len(x)
        x = torch.cat([x, x.new_zeros(max(0, more), x.shape[1])])
        seen, noise, q = ~x.isnan(), normals.noise, normals.extra
        observed = seen.to(noise)
        inner = self._products(observed, normals.scaled, normals.loadings) + torch.eye(q).to(noise)
        factor = cholesky(inner.flatten(0, 1)).view_as(inner)
        offset = torch.where(seen[:, None], x[:, None] - normals.means, 0.0)
        pull = torch.bmm(offset.transpose(0, 1), normals.scaled).transpose(0, 1)
        z = torch.cholesky_solve(pull[..., None], factor)[..., 0]
        common = torch.bmm(z.transpose(0, 1), normals.loadings.mT).transpose(0, 1)
        rest = torch.where(seen[:, None], offset - common, 0.0)
        log_det = 2 * factor.diagonal(dim1=2, dim2=3).log().sum(2) + observed @ noise.log().T
        square = (rest.square() / noise).sum(2) + z.square().sum(2)
        log_prob = -0.5 * (square + log_det + observed.sum(1, keepdim=True) * LOG_2PI)
        self.log_prob = log_prob[:rows]
        self.mean = (normals.means + torch.where(seen[:, None], offset, common))[:rows]
        self.z, self.factor, self.hidden = z[:rows], factor[:rows], ~seen[:rows]

    def _products(self, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Σ_j weight_ij left_kj right_kjᵀ, `(m, K, q, r)`, for `weight (m, d)`, `left (K, d, q)`, `right (K, d, r)`."""
        pairs = (left[:, :, :, None] * right[:, :, None, :]).transpose(0, 1)
        return (weight @ pairs.flatten(1)).view(len(weight), *pairs.shape[1:])

    def second(self, share: Tensor, view: View) -> Tensor:
        """Cov = W_m M_o⁻¹ W_mᵀ + D_m, through a `Projected` view."""
        assert isinstance(view, Projected)
        loadings, noise, hidden = self.normals.loadings, self.normals.noise, self.hidden.to(share)
        mass = share @ hidden
        inverse = torch.cholesky_inverse(self.factor.flatten(0, 1)).view_as(self.factor)
        across = inverse @ self._products(hidden, loadings, view.basis)
        diagonal = (self._summed(share, hidden, inverse) * loadings[:, :, None, :]).sum(3)
        diagonal = (diagonal * loadings).sum(2) + mass * noise
        product = (self._summed(share, hidden, across) * loadings[..., None]).sum(2)
        return torch.cat([diagonal[:, :, None], product + (mass * noise)[:, :, None] * view.basis], 2)

    def _summed(self, share: Tensor, hidden: Tensor, matrices: Tensor) -> Tensor:
        """Σ_i share_ki hidden_ij A_ik, `(K, d, q, r)`, for `matrices (m, K, q, r)`."""
        weighted = (share.T[:, :, None, None] * matrices).flatten(1)
        return (hidden.T @ weighted).view(hidden.shape[1], *matrices.shape[1:]).transpose(0, 1)

    def draw(self, k: Tensor, eps: Tensor) -> Tensor:
        """z from its posterior, then the missing cells."""
        rows, d = torch.arange(len(k)), self.normals.means.shape[1]
        swing = torch.linalg.solve_triangular(self.factor[rows, k].mT, eps[:, d:, None], upper=True)
        common = (self.normals.loadings[k] @ swing)[:, :, 0] + self.normals.noise[k].sqrt() * eps[:, :d]
        return self.mean[rows, k] + self.hidden * common

    def spread(self, left: Tensor) -> Spread:
        """W_m M_o^-½ and D_m."""
        turned = torch.linalg.solve_triangular(self.factor[0], self.normals.loadings.mT, upper=False).mT
        return {"loadings": turned[:, left], "noise": self.normals.noise[:, left]}
