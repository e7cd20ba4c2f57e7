"""What a covariance structure is: which Σ_k a mixture may have, and the best of them for given scatter.

Each maximises, over the Σ it allows,

    -½ Σ_k (n_k [log |Σ_k| + tr(Σ_k⁻¹ S_k / n_k)] + c [log |Σ_k| + tr(Σ_k⁻¹ V)]),

with n_k rows of scatter S_k about their mean, and the prior's c rows of covariance V (`prior`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from jensen.mixture.normals import Dense, Normals
from jensen.mixture.parameters import Spread
from jensen.mixture.prior import Prior
from jensen.mixture.statistics import Statistics
from jensen.mixture.view import OnlyDiagonal, View, Whole
from jensen.noise import Noise
from jensen.rules import Rule

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
    def rules(self) -> dict[str, Rule]:
        """What the tensors of a spread must be, by name."""

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


def blended(statistics: Statistics, prior: Prior) -> Tensor:
    """What the view keeps of (S_k + c V) / (n_k + c); V where a component has no rows at all."""
    scatter = statistics.scatter()
    rows = (statistics.count + prior.rows).reshape(-1, *[1] * (scatter.ndim - 1))
    blend = (scatter + prior.rows * statistics.view.of(prior.mode)) / rows.clamp(min=1e-300)
    return 0.5 * (blend + blend.mT) if isinstance(statistics.view, Whole) else blend
