"""Families on levels whose probabilities are a table p(level | class, column): categorical and truncated Poisson.

**Categorical**: counts with a added to every one,

    p(j | k) = (n_kj + a) / (n_k + a k'),        k' levels, n_k observed cells of class k,

the posterior mean under a symmetric Dirichlet prior with parameter a (Laplace's rule for a = 1).

**Poisson**, truncated to 0, …, k'-1 and normalised there, so that it is an exact mass:

    p(j | θ) = exp(j θ - log j! - A(θ)),   A(θ) = log Σ_{j<k'} exp(j θ - log j!),   rate e^θ.

In this exponential family A'(θ) = E[j] and A''(θ) = Var[j], and the likelihood is highest where E_θ[j] is the mean of the
cells. The conjugate prior counts as a cells that hold the column's mean over all classes,

    E_θ[j] = (Σ x + a m) / (n + a),   m = (Σ_all x + ½) / (n_all + 1/(k'-1)),

m moved off the ends, where θ would be infinite, by half a count. The solution is bracketed in closed form: truncation
lowers the mean, so e^θ ≥ E_θ[j]; counted down from k'-1, neighbouring probabilities have ratios of at most (k'-1) e^-θ,
so k'-1-j is below a geometric law, and e^θ ≤ (k'-1)(1 + g)/g with g = k'-1 - E_θ[j]. Newton's method, with bisection
where a step would leave the bracket.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from jensen.data.space import Levels
from jensen.distributions.picking import picked
from jensen.distributions.smoothing import log_smoothed
from jensen.naive_bayes.family import Ascents, Family, Scorer
from jensen.naive_bayes.labelled import Labelled
from jensen.noise import Noise
from jensen.rules import COUNTS, Rule, between

NEWTON_STEPS = 200


class Table(Family):
    """A mass function for every class and column.

    Args:
        classes: K.
        dims: D.
        space: the levels.
        smoothing: a.
    """

    def __init__(self, classes: int, dims: int, space: Levels, smoothing: float) -> None:
        super().__init__(classes, dims)
        self.space, self.smoothing = space, smoothing

    @abstractmethod
    def log_probabilities(self) -> Tensor:
        """log p(j | k, d), `(K, D, levels)` float64."""

    @property
    def cells(self) -> int:
        """One for each class and column."""
        return self.classes * self.dims

    def scorer(self) -> Scorer:
        """Looked up."""
        table, columns = self.log_probabilities().permute(1, 2, 0).contiguous(), torch.arange(self.dims)

        def score(x: Tensor) -> Tensor:
            found = table[columns, self.space.index(x.nan_to_num(nan=self.space.first))]
            return found.masked_fill(x.isnan()[:, :, None], 0.0).sum(1)

        return score

    def draw(self, y: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """The level at which the distribution function passes u."""
        out = u.new_empty(u.shape)
        table = self.log_probabilities()
        for k in y.unique().tolist():
            own = y == k
            out[own] = self.space.first + self.space.step * picked(table[k].exp(), u[own].T).T.to(out)
        return out


class Categorical(Table):
    """Smoothed histograms; with two levels, Bernoulli variables."""

    counts: Tensor

    def __init__(self, classes: int, dims: int, space: Levels, smoothing: float) -> None:
        super().__init__(classes, dims, space, smoothing)
        self.register_buffer("counts", torch.zeros(classes, dims, space.k, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """Counts."""
        return {"counts": COUNTS}

    def learn(self, rows: Labelled, noise: Noise) -> Ascents:
        """Count."""
        flat = torch.zeros(self.counts.numel(), dtype=torch.float64)
        columns = torch.arange(self.dims)
        for part in rows.passing():
            seen = ~part.x.isnan()
            level = self.space.index(part.x.nan_to_num(nan=self.space.first))
            place = (part.y[:, None] * self.dims + columns) * self.space.k + level
            flat.index_add_(0, place[seen], part.weight[:, None].expand(seen.shape)[seen])
        self.counts.copy_(flat.view(self.counts.shape))
        return Ascents()

    def log_probabilities(self) -> Tensor:
        """log (n + a) - log Σ (n + a)."""
        return log_smoothed(self.counts, self.smoothing)


class Poisson(Table):
    """Truncated Poisson variables."""

    log_rate: Tensor

    def __init__(self, classes: int, dims: int, space: Levels, smoothing: float) -> None:
        super().__init__(classes, dims, space, smoothing)
        middle = math.log((space.k - 1) / 2)
        self.register_buffer("log_rate", torch.full((classes, dims), middle, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """θ, small enough that j θ is finite."""
        return {"log_rate": between(-1e4, 1e4, "from -1e4 to 1e4")}

    def learn(self, rows: Labelled, noise: Noise) -> Ascents:
        """Means, smoothed, and the θ that has them."""
        count, total = (torch.zeros(self.classes, self.dims, dtype=torch.float64) for _ in range(2))
        for part in rows.passing():
            seen = part.weight[:, None] * ~part.x.isnan()
            level = self.space.index(part.x.nan_to_num(nan=self.space.first))
            count.index_add_(0, part.y, seen)
            total.index_add_(0, part.y, seen * level)
        pooled = (total.sum(0) + 0.5) / (count.sum(0) + 1 / (self.space.k - 1))
        mean = (total + self.smoothing * pooled) / (count + self.smoothing)
        for k in range(self.classes):
            self.log_rate[k] = log_rate_of(mean[k], self.space.k)
        return Ascents()

    def log_probabilities(self) -> Tensor:
        """j θ - log j! - A(θ)."""
        return _log_masses(self.log_rate, self.space.k)


def _log_masses(log_rate: Tensor, levels: int) -> Tensor:
    j = torch.arange(levels, dtype=torch.float64, device=log_rate.device)
    return (j * log_rate[..., None] - torch.lgamma(j + 1)).log_softmax(-1)


def log_rate_of(mean: Tensor, levels: int) -> Tensor:
    """θ of the truncated Poisson law with this mean, for means strictly between 0 and levels - 1.

    Args:
        mean: `(D,)` float64.
        levels: k'.
    """
    gap = levels - 1 - mean
    low, high = mean.log(), ((levels - 1) * (1 + gap) / gap).log()
    theta, j = low.clone(), torch.arange(levels, dtype=torch.float64, device=mean.device)
    for _ in range(NEWTON_STEPS):
        p = _log_masses(theta, levels).exp()
        now = p @ j
        variance = (p * (j - now[:, None]).square()).sum(1)
        low, high = torch.where(now < mean, theta, low), torch.where(now < mean, high, theta)
        step = theta + (mean - now) / variance
        new = torch.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        if bool(((new - theta).abs() <= 1e-14 * (1 + theta.abs())).all()):
            return new
        theta = new
    return theta
