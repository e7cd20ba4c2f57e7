"""A normal for every class and column, with variances that no class can make vanish.

    m_kd the mean,   σ²_kd = (n_kd v_kd + c V_d) / (n_kd + c),   V_d = pooled variance within classes + 10⁻⁶ · variance,

n_kd observed cells of variance v_kd. This is the mode under an inverse Wishart prior that counts as c rows of variance
V_d (Fraley and Raftery 2007; `mixture.prior`). So a column that is constant within a class has the variance
c V_d / (n_kd + c) there, and a density that is high and not infinite. A class without a cell in a column has the law of
all classes together, which says nothing about the class.
"""

import math

import torch
from torch import Tensor

from jensen.mixture.prior import weakly
from jensen.naive_bayes.family import Ascents, Family, Scorer, over_observed
from jensen.naive_bayes.labelled import Labelled, Moments, moments
from jensen.noise import Noise
from jensen.rules import FINITE, POSITIVE, Rule


class Normal(Family):
    """N(m_kd, σ²_kd).

    Args:
        classes: K.
        dims: D.
        prior_rows: c.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, classes: int, dims: int, prior_rows: float) -> None:
        super().__init__(classes, dims)
        self.prior_rows = prior_rows
        self.register_buffer("mean", torch.zeros(classes, dims, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(classes, dims, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """Means and variances."""
        return {"mean": FINITE, "variance": POSITIVE}

    @property
    def cells(self) -> int:
        """One for each class and column."""
        return self.classes * self.dims

    def learn(self, rows: Labelled, noise: Noise) -> Ascents:
        """Moments in two passes."""
        found = moments(rows, self.dims)
        self.mean.copy_(found.mean)
        self.variance.copy_(shrunk(found, self.prior_rows))
        return Ascents()

    def scorer(self) -> Scorer:
        """log N."""
        constant = -0.5 * (self.variance.log() + math.log(2 * math.pi))

        def score(x: Tensor) -> Tensor:
            return over_observed(x, constant - 0.5 * (x[:, None] - self.mean).square() / self.variance)

        return score

    def draw(self, y: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """m + σ ε."""
        return self.mean[y] + self.variance.sqrt()[y] * eps


def shrunk(found: Moments, prior_rows: float) -> Tensor:
    """σ²_kd, `(K, D)`."""
    mode = weakly(found.within, found.spread, counts=0.0, rows=prior_rows).mode
    total = found.count + prior_rows
    variance = (found.count * found.variance + prior_rows * mode) / total.clamp(min=1e-300)
    return torch.where(found.count > 0, variance, found.spread)
