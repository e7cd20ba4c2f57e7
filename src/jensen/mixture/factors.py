"""Low rank plus diagonal: a mixture of factor analysers.

    Σ_k = W_k W_kᵀ + D_k,   W_k of `rank` columns, D_k diagonal

(Ghahramani and Hinton 1996, "The EM algorithm for mixtures of factor analyzers"). No formula gives the best W and D at
once. Two ways go up from a given W and D on the target C = (S + c V) / (n + c), V diagonal; D_jj is at least a thousandth
of V_jj in both.

Up to `WHOLE_DIMS` dimensions the E-step keeps all of C, and conditional maxima take turns, each a formula: W given D from
the leading eigenvectors of D^-½ C D^-½ = U Λ Uᵀ,

    W = D^½ U (Λ - I)^½,   and   D_jj += ([Σ⁻¹ C Σ⁻¹]_jj - [Σ⁻¹]_jj) / [Σ⁻¹]_jj²   given all else, for each j

(Zhao, Yu and Jiang 2008, "ML estimation for factor analysis: EM or non-EM?"). They converge where EM crawls.

Beyond, C is asked for its diagonal and for C T alone, Σ⁻¹ = D⁻¹ - T Tᵀ as in `lowrank`, and no d × d matrix is made. The
factors are one more latent variable z, and the step is EM's over it: with M = I + Wᵀ D⁻¹ W = L Lᵀ,

    P = C Σ⁻¹ W = C T L⁻¹,   Ω = M⁻¹ + Wᵀ Σ⁻¹ P,   A = P Ω⁻¹,   D ← diag(C - A Pᵀ),   W ← A Ω^½,

the last by parameter expansion, in which z ~ N(0, Ω) as long as the step lasts (Liu, Rubin and Wu 1998, "Parameter
expansion to accelerate EM").
"""

import torch
from torch import Tensor

from jensen.mixture.lowrank import LowRank
from jensen.mixture.normals import cholesky
from jensen.mixture.parameters import Spread
from jensen.mixture.prior import Prior
from jensen.mixture.statistics import Statistics
from jensen.mixture.structure import Covariance, Look, blended
from jensen.mixture.view import Everything, Projected, View
from jensen.noise import Noise
from jensen.rules import FINITE, POSITIVE, Rule

LEAST_NOISE = 1e-3
WHOLE_DIMS = 96
FACTOR_ROUNDS = 2
POWERS = 3  # rounds of power iteration on a sample, for a start


class Factors(Covariance):
    """Σ_k = W_k W_kᵀ + D_k.

    Args:
        rank: columns of W_k, from 1 to d - 1.
    """

    word = "factors"
    correlations = False

    def __init__(self, rank: int, dims: int) -> None:
        self.rank, self.whole = rank, dims <= WHOLE_DIMS

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """Loadings and noise variances."""
        return {"loadings": (components, dims, self.rank), "noise": (components, dims)}

    def rules(self) -> dict[str, Rule]:
        """Any loadings, positive noise."""
        return {"loadings": FINITE, "noise": POSITIVE}

    def normals(self, means: Tensor, spread: Spread) -> LowRank:
        """Without d × d matrices."""
        return LowRank(means, spread["loadings"], spread["noise"])

    def view(self, spread: Spread) -> View:
        """Everything, or diagonals and products with T."""
        noise = spread["noise"]
        return Everything(*noise.shape) if self.whole else Projected(self.normals(torch.zeros_like(noise), spread).root)

    def lasting_view(self, components: int, dims: int) -> View:
        """Everything."""
        return Everything(components, dims)

    def look(self, look: Look, components: int, dims: int, noise: Noise) -> Statistics:
        """Everything, or products with a basis that power iteration turns towards the largest eigenvalues."""
        if self.whole:
            return look(Everything(components, dims))
        statistics = look(Projected(noise.at("basis").normal(range(components), (dims, self.rank)).double()))
        for _ in range(POWERS):
            statistics = look(Projected(torch.linalg.qr(statistics.scatter()[:, :, 1:]).Q))
        return statistics

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """A step up."""
        target, view, least = blended(statistics, prior), statistics.view, LEAST_NOISE * prior.mode
        assert isinstance(view, Projected)
        variances, product = target[:, :, 0], target[:, :, 1:]
        if isinstance(view, Everything):
            return self._in_turns(0.5 * (product + product.mT), least, before)
        if before is None:
            return self._begun(variances, product, view.basis, least)
        return self._step(self.normals(torch.zeros_like(before["noise"]), before), variances, product, least)

    def _in_turns(self, target: Tensor, least: Tensor, before: Spread | None) -> Spread:
        """Conditional maxima given all of C."""
        noise = self._left_by_axes(target).clamp(min=least) if before is None else before["noise"]
        for _ in range(FACTOR_ROUNDS):
            loadings = self._loadings(target, noise)
            noise = self._noise(target, loadings, noise, least)
        return {"loadings": loadings, "noise": noise}

    def _left_by_axes(self, target: Tensor) -> Tensor:
        """The variances that the principal axes leave."""
        values, vectors = torch.linalg.eigh(target)
        kept = vectors[..., -self.rank :].square() @ values[:, -self.rank :, None]
        return target.diagonal(dim1=1, dim2=2) - kept[..., 0]

    def _loadings(self, target: Tensor, noise: Tensor) -> Tensor:
        """The best W given D."""
        root = noise.sqrt()
        values, vectors = torch.linalg.eigh(target / root[:, :, None] / root[:, None, :])
        length = (values[:, -self.rank :] - 1).clamp(min=0).sqrt()
        return root[:, :, None] * vectors[..., -self.rank :] * length[:, None, :]

    def _noise(self, target: Tensor, loadings: Tensor, noise: Tensor, least: Tensor) -> Tensor:
        """The best D_jj given W and the other D, for one j after the other; Σ⁻¹ follows by rank-one updates."""
        spread = {"loadings": loadings, "noise": noise}
        inverse, noise = torch.cholesky_inverse(cholesky(self.matrices(spread, len(noise)))), noise.clone()
        for j in range(noise.shape[1]):
            column = inverse[:, :, j]
            p, q = column[:, j], torch.einsum("ki,kil,kl->k", column, target, column)
            new = torch.maximum(noise[:, j] + (q - p) / p.square(), least[j])
            change = new - noise[:, j]
            inverse = inverse - (change / (1 + change * p))[:, None, None] * column[:, :, None] * column[:, None, :]
            noise[:, j] = new
        return noise

    def _step(self, normals: LowRank, variances: Tensor, product: Tensor, least: Tensor) -> Spread:
        """Parameter-expanded EM from diag C and C T."""
        turn = torch.linalg.inv(normals.factor)
        covered, pull = product @ turn, normals.root @ turn
        moment = normals.inner + pull.mT @ covered
        root = cholesky(0.5 * (moment + moment.mT))
        slope = torch.cholesky_solve(covered.mT, root).mT
        return {"loadings": slope @ root, "noise": (variances - (slope * covered).sum(2)).clamp(min=least)}

    def _begun(self, variances: Tensor, product: Tensor, basis: Tensor, least: Tensor) -> Spread:
        """W Wᵀ = C B (Bᵀ C B)⁻¹ Bᵀ C, which is no more than C, and what it leaves of the diagonal."""
        values, vectors = torch.linalg.eigh(basis.mT @ product)
        values = values.clamp(min=1e-10 * values[:, -1:].clamp(min=1e-280))
        loadings = product @ (vectors / values.sqrt()[:, None])
        return {"loadings": loadings, "noise": (variances - loadings.square().sum(2)).clamp(min=least)}

    def variances(self, spread: Spread, components: int) -> Tensor:
        """Σ_q W² + D."""
        return spread["loadings"].square().sum(2) + spread["noise"]

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """W Wᵀ + D."""
        return spread["loadings"] @ spread["loadings"].mT + torch.diag_embed(spread["noise"])

    def free(self, components: int, dims: int) -> int:
        """K (d rank + d - rank (rank - 1) / 2), since rotations of the factors change nothing, and no more than full has."""
        own = dims * self.rank + dims - self.rank * (self.rank - 1) // 2
        return components * min(own, dims * (dims + 1) // 2)

    def unconstrained(self, spread: Spread) -> Spread:
        """Loadings, and logarithms of the noise."""
        return {"loadings": spread["loadings"], "noise": spread["noise"].log()}

    def constrained(self, raw: Spread) -> Spread:
        """Loadings, and exponentials."""
        return {"loadings": raw["loadings"], "noise": raw["noise"].exp()}
