"""A mixture of normals for every class and column, each fitted by EM (`jensen.mixture`).

    p(x_d | k) = Σ_m w_kdm N(x_d; μ_kdm, σ²_kdm)

The prior on the variances counts as c rows of variance V_d, which all classes share: the variance inside the clusters of
k-means++, pooled over classes, + 10⁻⁶ of the variance of the column (`mixture.prior.weakly`). A class with fewer different
values in a column than components has as many components as values; one without any has the normal law of all classes
together.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.data.examples import Examples
from jensen.distributions.picking import picked_each
from jensen.mixture.ascent import Settings
from jensen.mixture.covariance import covariance_of
from jensen.mixture.em import Problem, Run
from jensen.mixture.prior import Prior, weakly
from jensen.mixture.rows import Chunk, Chunks, Scale
from jensen.mixture.seeding import Clusters, clusters
from jensen.naive_bayes.family import Ascents, Family, Scorer, over_observed
from jensen.naive_bayes.labelled import Labelled, Moments, moments
from jensen.noise import Noise
from jensen.rules import FINITE, POSITIVE, Rule, probabilities

STARTS, SETTINGS = 2, Settings(tolerance=1e-5, max_iterations=1000)
DIAGONAL = covariance_of("diag", 1, 1)


class Mixtures(Family):
    """Σ_m w_kdm N(μ_kdm, σ²_kdm).

    Args:
        classes: K.
        dims: D.
        components: at most so many for each class and column.
        prior_rows: c.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def __init__(self, classes: int, dims: int, components: int, prior_rows: float) -> None:
        super().__init__(classes, dims)
        self.components, self.prior_rows = components, prior_rows
        shape = (classes, dims, components)
        self.register_buffer("weights", torch.full(shape, 1 / components, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variances", torch.ones(shape, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """Weights with sum 1, means and variances."""
        return {"weights": probabilities(), "means": FINITE, "variances": POSITIVE}

    @property
    def cells(self) -> int:
        """One for each class, column and component."""
        return self.weights.numel()

    def learn(self, rows: Labelled, noise: Noise) -> Ascents:
        """EM for every class and column, from two starts each."""
        found, told = moments(rows, self.dims), []
        classes = [rows.of_class(k) for k in range(self.classes)]
        for d in range(self.dims):
            cells = [_cells(part.x[:, d], part.weight) for part in classes]
            columns = [_Column(chunk, found, d, noise.at(k, d)) for k, chunk in enumerate(cells)]
            starts = [column.clusters(self.components, 0) for column in columns]
            prior = self._prior(starts, found, d)
            for k, (column, start) in enumerate(zip(columns, starts, strict=True)):
                self.weights[k, d], self.means[k, d], self.variances[k, d] = 0.0, found.everywhere[d], found.spread[d]
                if start is None:
                    self.weights[k, d, 0] = 1.0
                    continue
                end = column.fitted(start, prior)
                told.append(end)
                m = end.parameters.components
                self.weights[k, d, :m] = end.parameters.weights
                self.means[k, d, :m] = end.parameters.means[:, 0]
                self.variances[k, d, :m] = end.parameters.spread["variances"][:, 0]
        unfinished = sum(not end.converged for end in told)
        return Ascents(len(told), max((end.iterations for end in told), default=0), unfinished)

    def _prior(self, starts: "list[Clusters | None]", found: Moments, d: int) -> Prior:
        """c rows of the variance inside clusters, pooled over classes."""
        inside = [(float(c.weight.sum()), c.within(DIAGONAL)) for c in starts if c is not None]
        total = sum(weight for weight, _ in inside)
        within = torch.stack([weight / total * variance for weight, variance in inside]).sum(0)
        return weakly(within, found.spread[d : d + 1], counts=1.0, rows=self.prior_rows)

    def scorer(self) -> Scorer:
        """log Σ_m."""
        constant = self.weights.log() - 0.5 * (self.variances.log() + math.log(2 * math.pi))

        def score(x: Tensor) -> Tensor:
            apart = x[:, None, :, None] - self.means
            return over_observed(x, (constant - 0.5 * apart.square() / self.variances).logsumexp(3))

        return score

    def draw(self, y: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """A component by u, then μ + σ ε."""
        m = picked_each(self.weights[y], u)[:, :, None]
        mean, variance = (table[y].gather(2, m)[:, :, 0] for table in (self.means, self.variances))
        return mean + variance.sqrt() * eps


@dataclass(frozen=True)
class _Column:
    """The cells of one class in one column."""

    cells: Chunk
    found: Moments
    d: int
    noise: Noise

    def clusters(self, components: int, start: int) -> Clusters | None:
        """At most so many clusters; None without cells."""
        different = len(self.cells.x.unique())
        if different == 0:
            return None
        return clusters(self.chunks, self.scale, min(components, different), self.noise.at("start", start))

    def fitted(self, first: Clusters, prior: Prior) -> Run:
        """The best end of EM."""
        problem = Problem(self.chunks, self.scale, DIAGONAL, prior, SETTINGS)
        more = range(1, STARTS if first.components > 1 else 1)
        starts = [first, *(c for s in more if (c := self.clusters(first.components, s)) is not None)]
        return max((problem.ascend(start.start(problem)) for start in starts), key=lambda end: end.value)

    @property
    def chunks(self) -> Chunks:
        """The cells as rows of one column, all of them observed."""
        made = Chunks(Examples(self.cells.x, torch.arange(len(self.cells)), None, self.cells.weight))
        made.complete = True
        return made

    @property
    def scale(self) -> Scale:
        """Where they are; the variance is that of all classes, which is never 0."""
        d = slice(self.d, self.d + 1)
        weight = self.cells.weight
        mean = (weight @ self.cells.x) / weight.sum()
        return Scale(float(weight.sum()), mean, self.found.spread[d])


def _cells(column: Tensor, weight: Tensor) -> Chunk:
    """The observed cells of a column."""
    seen = ~column.isnan()
    return Chunk(column[seen][:, None], weight[seen])
