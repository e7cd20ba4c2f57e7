"""A family of class-conditional distributions: p(x_d | y) for some columns d, every column for itself."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from jensen.naive_bayes.labelled import Labelled
from jensen.noise import Noise
from jensen.rules import Ruled

Scorer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ascents:
    """How the EM fits of a family went: how many there were, the longest one's iterations, how many did not converge."""

    fits: int = 0
    iterations: int = 0
    unfinished: int = 0


class Family(nn.Module, Ruled):
    """∏_d p(x_d | y = k) of D columns under K classes.

    Args:
        classes: K.
        dims: D.
    """

    def __init__(self, classes: int, dims: int) -> None:
        super().__init__()
        self.classes, self.dims = classes, dims

    @property
    @abstractmethod
    def cells(self) -> int:
        """How many numbers scoring one row takes at a time."""

    @abstractmethod
    def learn(self, rows: Labelled, noise: Noise) -> Ascents:
        """Fit to rows of D columns.

        Args:
            rows: the training rows, these columns of them.
            noise: the source of starts and choices.
        """

    @abstractmethod
    def scorer(self) -> Scorer:
        """A function from rows `(B, D)`, NaN where a cell is missing, to Σ_d log p(x_d | k) over observed cells, `(B, K)`
        float64. What it needs is made once, here.
        """

    @abstractmethod
    def draw(self, y: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """Rows `(n, D)` float64 of given classes.

        Args:
            y: classes `(n,)`.
            u: uniform numbers in [0, 1), `(n, D)`.
            eps: standard normals `(n, D)`, independent of u.
        """


def over_observed(x: Tensor, log_prob: Tensor) -> Tensor:
    """The sum over columns of `log_prob (B, K, D)` where the cell of `x (B, D)` is observed."""
    return log_prob.masked_fill(x.isnan()[:, None], 0.0).sum(2)
