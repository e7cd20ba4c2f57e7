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

(Ghahramani and Hinton 1996, "The EM algorithm for mixtures of factor analyzers"). For factors, conditional maxima on
the full target C take turns, each a formula: W given D from the leading eigenvectors of D^-½ C D^-½ = U Λ Uᵀ,

    W = D^½ U (Λ - I)^½,   and   D_jj += ([Σ⁻¹ C Σ⁻¹]_jj - [Σ⁻¹]_jj) / [Σ⁻¹]_jj²   given all else, for each j,

with D_jj at least a thousandth of V_jj (Zhao, Yu and Jiang 2008, "ML estimation for factor analysis: EM or non-EM?").
They raise the objective, which is all that a generalised EM needs, and converge where EM for factors crawls.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from jensen.errors import FitError
from jensen.mixture.parameters import Spread
from jensen.mixture.prior import Prior

FACTOR_ROUNDS = 2
LEAST_NOISE = 1e-3


class Covariance(ABC):
    """A structure. Scatter is `(K, d, d)`, or `(K, d)` where `diagonal` says that only its diagonal is needed."""

    word: ClassVar[str]
    diagonal: ClassVar[bool] = False

    @abstractmethod
    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """The tensors of the spread, by name."""

    @abstractmethod
    def maximise(self, scatter: Tensor, counts: Tensor, prior: Prior, before: Spread | None) -> Spread:
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

    def variances(self, spread: Spread, components: int) -> Tensor:
        """The diagonals of Σ_k, `(K, d)`."""
        return self.matrices(spread, components).diagonal(dim1=1, dim2=2)

    def log_prior(self, spread: Spread, components: int, prior: Prior) -> Tensor:
        """-½ c Σ_k [log |Σ_k| + tr(Σ_k⁻¹ V)], over the different Σ_k."""
        matrices = self.matrices(spread, components)[: self.different(components)]
        factor = cholesky(matrices)
        trace = (torch.cholesky_inverse(factor) * prior.mode).sum()
        return -0.5 * prior.rows * (2 * factor.diagonal(dim1=1, dim2=2).log().sum() + trace)

    def different(self, components: int) -> int:
        """How many of the Σ_k are parameters of their own."""
        return components

    def pick(self, spread: Spread, index: Tensor) -> Spread:
        """The spread of the components at these positions."""
        return {name: tensor[index] for name, tensor in spread.items()}


def cholesky(matrices: Tensor) -> Tensor:
    """Lower factors of `(K, d, d)`; a matrix that is not positive definite stops the fit and names its component."""
    factor, failed = torch.linalg.cholesky_ex(matrices)
    if bool(failed.any()):
        raise FitError(
            f"the covariance of component {int(failed.nonzero()[0])} is not positive definite; give prior_rows above 0, "
            "fewer components or a simpler covariance"
        )
    return factor


class Full(Covariance):
    """Any Σ_k."""

    word = "full"

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One matrix a component."""
        return {"covariances": (components, dims, dims)}

    def maximise(self, scatter: Tensor, counts: Tensor, prior: Prior, before: Spread | None) -> Spread:
        """(S_k + c V) / (n_k + c)."""
        return {"covariances": blended(scatter, counts, prior)}

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

    def maximise(self, scatter: Tensor, counts: Tensor, prior: Prior, before: Spread | None) -> Spread:
        """(Σ S_k + c V) / (n + c)."""
        return {"covariance": blended(scatter.sum(0, keepdim=True), counts.sum(0, keepdim=True), prior)[0]}

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

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """One variance a component and dimension."""
        return {"variances": (components, dims)}

    def maximise(self, scatter: Tensor, counts: Tensor, prior: Prior, before: Spread | None) -> Spread:
        """(S_kj + c v_j) / (n_k + c)."""
        return {"variances": blended(scatter, counts, prior)}

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """Diagonal matrices."""
        return torch.diag_embed(self.variances(spread, components))

    def variances(self, spread: Spread, components: int) -> Tensor:
        """The spread itself."""
        return spread["variances"]

    def log_prior(self, spread: Spread, components: int, prior: Prior) -> Tensor:
        """-½ c Σ [log σ² + v / σ²]."""
        variances = self.variances(spread, components)
        return -0.5 * prior.rows * (variances.log() + prior.variances / variances).sum()

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

    def maximise(self, scatter: Tensor, counts: Tensor, prior: Prior, before: Spread | None) -> Spread:
        """The mean of diag's variances."""
        return {"variances": blended(scatter, counts, prior).mean(1, keepdim=True)}

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

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def shapes(self, components: int, dims: int) -> dict[str, tuple[int, ...]]:
        """Loadings and noise variances."""
        return {"loadings": (components, dims, self.rank), "noise": (components, dims)}

    def maximise(self, scatter: Tensor, counts: Tensor, prior: Prior, before: Spread | None) -> Spread:
        """A few rounds of conditional maxima for (S_k + c V) / (n_k + c)."""
        target, least = blended(scatter, counts, prior), LEAST_NOISE * prior.variances
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

    def matrices(self, spread: Spread, components: int) -> Tensor:
        """W Wᵀ + D."""
        return spread["loadings"] @ spread["loadings"].mT + torch.diag_embed(spread["noise"])

    def free(self, components: int, dims: int) -> int:
        """K (d rank + d - rank (rank - 1) / 2): rotations of the factors change nothing."""
        return components * (dims * self.rank + dims - self.rank * (self.rank - 1) // 2)

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
        "factors": Factors(rank),
    }
    return made[word]


def blended(scatter: Tensor, counts: Tensor, prior: Prior) -> Tensor:
    """(S_k + c V) / (n_k + c), of matrices or of diagonals; V where a component has no rows at all."""
    added = prior.mode if scatter.ndim == 3 else prior.variances
    rows = (counts + prior.rows).reshape(-1, *[1] * (scatter.ndim - 1))
    blend = (scatter + prior.rows * added) / rows.clamp(min=1e-300)
    return 0.5 * (blend + blend.mT) if scatter.ndim == 3 else blend


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).log())


def _exp_diagonal(raw: Tensor) -> Tensor:
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())
