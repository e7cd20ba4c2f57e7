"""Covariance structures: which Σ_k a mixture may have, and the best of them for given scatter.

Each maximises, over the Σ it allows,

    -½ Σ_k (n_k [log |Σ_k| + tr(Σ_k⁻¹ S_k / n_k)] + c [log |Σ_k| + tr(Σ_k⁻¹ V)]),

with n_k rows of scatter S_k about their mean, and the prior's c rows of covariance V (`prior`). Except for factors the
maximum is a formula:

    full       Σ_k = (S_k + c V) / (n_k + c)
    tied       Σ   = (Σ_k S_k + c V) / (Σ_k n_k + c)
    diag       the diagonal of full
    spherical  Σ_k = tr(S_k + c V) / (d (n_k + c)) · I
    factors    Σ_k = W_k W_kᵀ + D_k, W_k of `rank` columns, D_k diagonal: a mixture of factor analysers

(Ghahramani and Hinton 1996, "The EM algorithm for mixtures of factor analyzers"). For factors no formula gives both at
once. Two ways go up from a given W and D on the target C = (S + c V) / (n + c), V diagonal; D_jj is at least a
thousandth of V_jj in both.

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

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from jensen.mixture.lowrank import LowRank
from jensen.mixture.normals import Dense, Normals, cholesky
from jensen.mixture.normals import Diagonal as DiagonalNormals
from jensen.mixture.parameters import Spread
from jensen.mixture.prior import Prior
from jensen.mixture.statistics import Statistics
from jensen.mixture.view import Everything, OnlyDiagonal, Projected, View, Whole
from jensen.noise import Noise

LEAST_NOISE = 1e-3
WHOLE_DIMS = 96
FACTOR_ROUNDS = 2
POWERS = 3  # rounds of power iteration on a sample, for a start

Look = Callable[[View], Statistics]


class Covariance(ABC):
    """A structure.

    Class attributes:
        word: its name.
        diagonal: whether Σ_k is.
        correlations: whether the prior's V has the correlations of the data, and is not diagonal.
    """

    word: ClassVar[str]
    diagonal: ClassVar[bool] = False
    correlations: ClassVar[bool] = True

    @abstractmethod
    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """The tensors of the spread, by name."""

    @abstractmethod
    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """The spread that maximises the objective above, or at least does not lower it from `before`."""

    @abstractmethod
    def matrices(self, spread: Spread, components: int) -> Tensor:
        """Σ_k as `(K, d, d)`."""

    @abstractmethod
    def free(self, components: int, dims: int) -> int:
        """The number of free parameters."""

    @abstractmethod
    def unconstrained(self, spread: Spread) -> Spread:
        """Any real tensors that `constrained` maps to this spread."""

    @abstractmethod
    def constrained(self, raw: Spread) -> Spread:
        """A valid spread from any real tensors, differentiable."""

    def normals(self, means: Tensor, spread: Spread) -> Normals:
        """The components ready to be evaluated."""
        return Dense(means, self.matrices(spread, len(means)))

    def view(self, spread: Spread) -> View:
        """What an E-step at this spread keeps of matrices."""
        return OnlyDiagonal() if self.diagonal else Whole()

    def lasting_view(self, components: int, dims: int) -> View:
        """The least that serves an M-step at any spread."""
        return OnlyDiagonal() if self.diagonal else Whole()

    def look(self, look: Look, components: int, dims: int, noise: Noise) -> Statistics:
        """Statistics from which `maximise` can start with no spread before, by a function that makes them for a view."""
        return look(self.lasting_view(components, dims))

    def variances(self, spread: Spread, components: int) -> Tensor:
        """The diagonals of Σ_k, `(K, d)`."""
        return self.matrices(spread, components).diagonal(dim1=1, dim2=2)

    def log_prior(self, normals: Normals, prior: Prior) -> Tensor:
        """-½ c Σ_k [log |Σ_k| + tr(Σ_k⁻¹ V)], over the different Σ_k."""
        different = self.different(len(normals.means))
        return -0.5 * prior.rows * (normals.log_det + normals.trace(prior.mode))[:different].sum()

    def different(self, components: int) -> int:
        """How many of the Σ_k are parameters of their own."""
        return components

    def pick(self, spread: Spread, index: Tensor) -> Spread:
        """The spread of the components at these positions."""
        return {name: tensor[index] for name, tensor in spread.items()}

    def invalid(self, spread: Spread, components: int) -> int | None:
        """The first component whose Σ_k is not positive definite, if any."""
        factor, failed = torch.linalg.cholesky_ex(self.matrices(spread, components))
        return _first(failed.bool() | ~torch.isfinite(factor).flatten(1).all(1))


class Full(Covariance):
    """Any Σ_k."""

    word = "full"

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One matrix a component."""
        return {"covariances": (components, dims, dims)}

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """(S_k + c V) / (n_k + c)."""
        return {"covariances": blended(statistics, prior)}

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """The spread itself."""
        return spread["covariances"]

    def free(self, components: int, dims: int) -> int:
        """K d (d + 1) / 2."""
        return components * dims * (dims + 1) // 2

    def unconstrained(self, spread: Spread) -> Spread:
        """Cholesky factors with the logarithm of their diagonal."""
        return {"covariances": _log_diagonal(cholesky(spread["covariances"]))}

    def constrained(self, raw: Spread) -> Spread:
        """L Lᵀ."""
        factor = _exp_diagonal(raw["covariances"])
        return {"covariances": factor @ factor.mT}


class Tied(Covariance):
    """One Σ for all."""

    word = "tied"

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One matrix."""
        return {"covariance": (dims, dims)}

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """(Σ S_k + c V) / (n + c)."""
        total = statistics.count.sum() + prior.rows
        blend = (statistics.scatter().sum(0) + prior.rows * statistics.view.of(prior.mode)) / total.clamp(min=1e-300)
        return {"covariance": 0.5 * (blend + blend.mT)}

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """The same matrix K times."""
        return spread["covariance"].expand(components, -1, -1)

    def free(self, components: int, dims: int) -> int:
        """d (d + 1) / 2."""
        return dims * (dims + 1) // 2

    def different(self, components: int) -> int:
        """One."""
        return 1

    def pick(self, spread: Spread, index: Tensor) -> Spread:
        """All components have it."""
        return spread

    def unconstrained(self, spread: Spread) -> Spread:
        """Its Cholesky factor with the logarithm of the diagonal."""
        return {"covariance": _log_diagonal(cholesky(spread["covariance"][None])[0])}

    def constrained(self, raw: Spread) -> Spread:
        """L Lᵀ."""
        factor = _exp_diagonal(raw["covariance"])
        return {"covariance": factor @ factor.mT}


class Diagonal(Covariance):
    """Independent dimensions inside a component."""

    word = "diag"
    diagonal = True
    correlations = False

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One variance a component and dimension."""
        return {"variances": (components, dims)}

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """(S_kj + c v_j) / (n_k + c)."""
        return {"variances": blended(statistics, prior)}

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """Diagonal matrices."""
        return torch.diag_embed(self.variances(spread, components))

    def variances(self, spread: Spread, components: int) -> Tensor:
        """The spread itself."""
        return spread["variances"]

    def normals(self, means: Tensor, spread: Spread) -> Normals:
        """Independent dimensions."""
        return DiagonalNormals(means, self.variances(spread, len(means)))

    def invalid(self, spread: Spread, components: int) -> int | None:
        """One with a variance that is none."""
        variances = self.variances(spread, components)
        return _first(~((variances > 0) & torch.isfinite(variances)).all(1))

    def free(self, components: int, dims: int) -> int:
        """K d."""
        return components * dims

    def unconstrained(self, spread: Spread) -> Spread:
        """Logarithms."""
        return {name: tensor.log() for name, tensor in spread.items()}

    def constrained(self, raw: Spread) -> Spread:
        """Exponentials."""
        return {name: tensor.exp() for name, tensor in raw.items()}


class Spherical(Diagonal):
    """One variance a component; the spread has a second axis of length 1."""

    word = "spherical"

    def __init__(self, dims: int) -> None:
        self.dims = dims

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One variance a component."""
        return {"variances": (components, 1)}

    def maximise(self, statistics: Statistics, prior: Prior, before: Spread | None) -> Spread:
        """The mean of diag's variances."""
        return {"variances": blended(statistics, prior).mean(1, keepdim=True)}

    def variances(self, spread: Spread, components: int) -> Tensor:
        """The variance in every dimension."""
        return spread["variances"].expand(-1, self.dims)

    def free(self, components: int, dims: int) -> int:
        """K."""
        return components


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

    def invalid(self, spread: Spread, components: int) -> int | None:
        """One whose noise has a variance that is none, or whose loadings are not finite."""
        noise, loadings = spread["noise"], spread["loadings"]
        return _first(~((noise > 0) & torch.isfinite(noise)).all(1) | ~torch.isfinite(loadings).flatten(1).all(1))

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


WORDS = ("full", "tied", "diag", "spherical", "factors")


def covariance_of(word: str, dims: int, rank: int) -> Covariance:
    """The structure a word stands for."""
    made: dict[str, Covariance] = {
        "full": Full(),
        "tied": Tied(),
        "diag": Diagonal(),
        "spherical": Spherical(dims),
        "factors": Factors(rank, dims),
    }
    return made[word]


def blended(statistics: Statistics, prior: Prior) -> Tensor:
    """What the view keeps of (S_k + c V) / (n_k + c); V where a component has no rows at all."""
    scatter = statistics.scatter()
    rows = (statistics.count + prior.rows).reshape(-1, *[1] * (scatter.ndim - 1))
    blend = (scatter + prior.rows * statistics.view.of(prior.mode)) / rows.clamp(min=1e-300)
    return 0.5 * (blend + blend.mT) if isinstance(statistics.view, Whole) else blend


def _first(wrong: Tensor) -> int | None:
    return int(wrong.nonzero()[0]) if bool(wrong.any()) else None


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).log())


def _exp_diagonal(raw: Tensor) -> Tensor:
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())
