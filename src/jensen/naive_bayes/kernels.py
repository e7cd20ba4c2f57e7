"""A kernel density estimate for every class and column (Parzen 1962).

    p(x_d | k) = (1/n_kd) Σ_i N(x_d; x_id, h²_kd),   i the kept rows of class k whose cell d is observed

with the bandwidth that makes left-out rows likeliest (Duin 1976, "On the choice of smoothing parameters for Parzen
estimators of probability density functions"):

    h_kd = argmax Σ_i log (1/(n - 1)) Σ_{j ≠ i} N(x_i; x_j, h²)      over h_0/8 ≤ h ≤ 4 h_0,   h_0 = 1.06 σ n^{-1/5}.

The bounds are needed: where values are repeated, as in rounded data, the sum grows without limit as h → 0. σ is the
standard deviation within the class with the prior of `normal`, so that it is never 0. One cell has h_0; a class without a
cell in a column has one kernel, the normal law of all classes together.

Given the class columns are independent, so each column's cells are kept in ascending order for themselves. What a shorter
column leaves empty is +∞, whose kernel is 0 everywhere.
"""

import math

import torch
from torch import Tensor

from jensen.errors import InputError
from jensen.naive_bayes.family import Ascents, Family, Scorer, over_observed
from jensen.naive_bayes.labelled import Labelled, moments
from jensen.naive_bayes.normal import shrunk
from jensen.noise import Noise

CELLS_AT_ONCE = 1 << 21
MOST_FOR_BANDWIDTH = 1000
NARROWEST, WIDEST, GRID, REFINEMENTS = 1 / 8, 4.0, 21, 25
GOLDEN = (math.sqrt(5) - 1) / 2


class Kernels(Family):
    """(1/n) Σ_i N(x_id, h²_kd).

    Args:
        classes: K.
        dims: D.
        rows: how many training rows of each class are kept, at most; which ones is a random choice that the seed names.
        prior_rows: c of the standard deviations that scale the bandwidths.
    """

    stored: Tensor
    count: Tensor
    bandwidth: Tensor

    def __init__(self, classes: int, dims: int, rows: int, prior_rows: float) -> None:
        super().__init__(classes, dims)
        self.rows, self.prior_rows = rows, prior_rows
        stored = torch.full((classes, dims, rows), math.inf, dtype=torch.float64)
        stored[:, :, 0] = 0.0
        self.register_buffer("stored", stored)
        self.register_buffer("count", torch.ones(classes, dims, dtype=torch.int64))
        self.register_buffer("bandwidth", torch.ones(classes, dims, dtype=torch.float64))

    @property
    def cells(self) -> int:
        """One for each class and column; stored rows are gone through in pieces."""
        return self.classes * self.dims

    def learn(self, rows: Labelled, noise: Noise) -> Ascents:
        """Keep rows, sort their cells, choose bandwidths."""
        found = moments(rows, self.dims)
        deviation = shrunk(found, self.prior_rows).sqrt()
        self.stored.fill_(math.inf)
        for k in range(self.classes):
            part = rows.of_class(k)
            if not bool((part.weight == 1).all()):
                raise InputError("family kde takes no weights of rows; use gaussian or mixture, or repeat rows")
            kept = part.x[noise.at(k).permutation(len(part.x))[: self.rows]]
            for d in range(self.dims):
                cells = kept[:, d][~kept[:, d].isnan()].sort().values
                self.count[k, d] = max(1, len(cells))
                if len(cells) == 0:
                    self.stored[k, d, 0], self.bandwidth[k, d] = found.everywhere[d], found.spread[d].sqrt()
                    continue
                self.stored[k, d, : len(cells)] = cells
                self.bandwidth[k, d] = chosen_bandwidth(cells, float(deviation[k, d]))
        return Ascents()

    def scorer(self) -> Scorer:
        """log-mean-exp over the stored cells, some of them at a time."""
        constant = -(self.bandwidth.log() + 0.5 * math.log(2 * math.pi) + self.count.double().log())

        def score(x: Tensor) -> Tensor:
            total = x.new_full((len(x), self.classes, self.dims), -math.inf)
            step = max(1, CELLS_AT_ONCE // total.numel())
            for piece in self.stored.split(step, 2):
                away = (x[:, None, :, None] - piece) / self.bandwidth[:, :, None]
                total = torch.logaddexp(total, (-0.5 * away.square()).logsumexp(3))
            return over_observed(x, constant + total)

        return score

    def draw(self, y: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """A stored cell by u, then h ε more."""
        count = self.count[y]
        index = (u * count).long().minimum(count - 1)
        columns = torch.arange(self.dims).expand_as(index)
        return self.stored[y[:, None], columns, index] + self.bandwidth[y] * eps


def chosen_bandwidth(cells: Tensor, deviation: float) -> float:
    """The h within the bounds that is best for left-out cells: the best of a grid in log h, then golden sections.

    Args:
        cells: `(n,)` float64 ascending; of more than 1000, every so-manyth is used, and h goes on from there by the rate
            n^{-1/5} of the rule h_0.
        deviation: σ.
    """
    reference = 1.06 * deviation * len(cells) ** -0.2
    if len(cells) < 2:
        return reference
    few = cells[:: -(-len(cells) // MOST_FOR_BANDWIDTH)]
    own = 1.06 * deviation * len(few) ** -0.2
    grid = torch.linspace(math.log(NARROWEST), math.log(WIDEST), GRID, dtype=torch.float64).tolist()

    def value(log_factor: float) -> float:
        return left_out(few, own * math.exp(log_factor))

    best = max(range(GRID), key=lambda i: value(grid[i]))
    low, high = grid[max(0, best - 1)], grid[min(GRID - 1, best + 1)]
    for _ in range(REFINEMENTS):
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, b) if value(a) >= value(b) else (a, high)
    ends = [grid[best], 0.5 * (low + high)]
    return reference * math.exp(max(ends, key=value))


def left_out(cells: Tensor, h: float) -> float:
    """The mean over i of log (1/(n - 1)) Σ_{j ≠ i} N(x_i; x_j, h²), nats."""
    exponent = -0.5 * ((cells[:, None] - cells) / h).square()
    exponent.fill_diagonal_(-math.inf)
    inside = exponent.logsumexp(1).mean()
    return float(inside) - math.log((len(cells) - 1) * h) - 0.5 * math.log(2 * math.pi)
