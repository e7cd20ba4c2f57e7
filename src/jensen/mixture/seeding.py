"""Where EM starts: k-means++ on a sample of standardised rows, and a few rounds of k-means.

Centres are drawn one after the other, each row with a chance in proportion to its squared distance to the nearest one
so far (Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding"); of a few draws the one that
lowers the total most is taken. The clusters then give weights, means and covariances by one M-step.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.distributions.picking import picked
from jensen.errors import InputError
from jensen.mixture.covariance import Covariance
from jensen.mixture.em import Problem, maximise
from jensen.mixture.parameters import Parameters
from jensen.mixture.rows import Chunk, Chunks, Scale
from jensen.mixture.statistics import Statistics
from jensen.mixture.view import View
from jensen.noise import Noise

ROUNDS = 10
SAMPLE, SAMPLE_EACH = 4000, 100
ALL_POSITIONS = 1 << 22


def sample_rows(chunks: Chunks, count: int, noise: Noise) -> Chunk:
    """At most `count` different rows, by chance."""
    n = len(chunks)
    if n <= ALL_POSITIONS:
        return chunks.at(noise.permutation(n)[:count].sort().values)
    drawn = (noise.uniform(range(count)) * n).long()
    return chunks.at(drawn.unique())


@dataclass(frozen=True)
class Clusters:
    """A sample of rows and the cluster that each belongs to.

    Attributes:
        components: K.
        offset: `(m, d)` rows less the mean of the data; 0 where a cell is missing.
        seen: `(m, d)` whether it is there.
        weight: `(m,)` of the rows.
        label: `(m,)` cluster numbers.
        scale: where all the data are.
        noise: the source of what else is drawn for a start.
    """

    components: int
    offset: Tensor
    seen: Tensor
    weight: Tensor
    label: Tensor
    scale: Scale
    noise: Noise

    def start(self, problem: Problem) -> Parameters:
        """Weights, means and covariances of the clusters, by one M-step."""
        components, dims = self.components, self.offset.shape[1]
        statistics = problem.covariance.look(self._statistics, components, dims, self.noise)
        return maximise(statistics, problem.covariance, problem.prior)

    def within(self, covariance: Covariance) -> Tensor:
        """Pooled covariance inside clusters, `(d, d)`, or its diagonal `(d,)` where no more is asked for.

        Variances are those of observed cells about the means of a cluster's observed cells, over their degrees of freedom
        (half their weight at least); correlations are those with missing cells at these means.
        """
        share = torch.nn.functional.one_hot(self.label, self.components).to(self.offset) * self.weight[:, None]
        seen = self.seen.to(self.offset)
        mass = share.T @ seen
        means = (share.T @ self.offset) / mass.clamp(min=1e-300)
        rest = (self.offset - means[self.label]) * seen
        total, used = self.weight @ seen, (mass > 0).sum(0)
        variance = (self.weight @ rest.square()) / torch.maximum(total - used, 0.5 * total)
        if not covariance.correlations:
            return variance
        product = rest.T @ (rest * self.weight[:, None])
        root = (variance / product.diagonal().clamp(min=1e-300)).sqrt()
        spread = product * root[:, None] * root
        return 0.5 * (spread + spread.T)

    def _statistics(self, view: View) -> Statistics:
        """As if every row belonged to its cluster, about the mean of the data; scaled to all rows."""
        share = torch.nn.functional.one_hot(self.label, self.components).to(self.offset) * self.weight[:, None]
        own = [
            (self.offset[self.label == k][None], self.weight[self.label == k][:, None]) for k in range(self.components)
        ]
        seen = [view.pick(torch.tensor([k])).gram(rows * w, rows) for k, (rows, w) in enumerate(own)]
        everywhere, total = self.scale.mean.expand(self.components, -1), float(self.weight.sum())
        found = Statistics(everywhere, share.sum(0), share.T @ self.offset, torch.cat(seen), view, 0.0, total)
        return found.scaled(self.scale.weight / max(total, 1e-300))


def clusters(chunks: Chunks, scale: Scale, components: int, noise: Noise) -> Clusters:
    """K clusters of a sample of rows.

    Raises:
        InputError: fewer rows than components.
    """
    if components > len(chunks):
        raise InputError(f"n_components is {components}, more than the {len(chunks)} training rows; lower it")
    chunk = sample_rows(chunks, max(SAMPLE, SAMPLE_EACH * components), noise.at("rows"))
    sd, seen, weight = scale.variance.sqrt(), ~chunk.x.isnan(), chunk.weight.double()
    rows = torch.where(seen, (chunk.x.double() - scale.mean) / sd, 0.0)
    return Clusters(components, rows * sd, seen, weight, _k_means(rows, weight, components, noise), scale, noise)


def _k_means(rows: Tensor, weight: Tensor, components: int, noise: Noise) -> Tensor:
    """Cluster numbers `(m,)`."""
    centres = _plus_plus(rows, weight, components, noise.at("centres"))
    for _ in range(ROUNDS):
        label = _square_distances(rows, centres).argmin(1)
        share = torch.nn.functional.one_hot(label, components).to(rows) * weight[:, None]
        mass = share.sum(0)[:, None]
        centres = torch.where(mass > 0, (share.T @ rows) / mass.clamp(min=1e-300), centres)
    return _square_distances(rows, centres).argmin(1)


def _plus_plus(rows: Tensor, weight: Tensor, components: int, noise: Noise) -> Tensor:
    trials = 2 + int(math.log(components))
    draws = noise.uniform(range(components), (trials,)).to(rows.device)
    chosen = [_draw(weight, draws[0, :1])[0]]
    nearest = _square_distances(rows, rows[chosen[0]][None])[:, 0]
    for k in range(1, components):
        candidates = _draw(weight * nearest, draws[k])
        closer = torch.minimum(nearest[:, None], _square_distances(rows, rows[candidates]))
        best = (closer * weight[:, None]).sum(0).argmin()
        chosen.append(candidates[best])
        nearest = closer[:, best]
    return rows[torch.stack(chosen)]


def _draw(mass: Tensor, u: Tensor) -> Tensor:
    """Positions drawn in proportion to mass; evenly if there is none."""
    return picked(mass if float(mass.sum()) > 0 else torch.ones_like(mass), u)


def _square_distances(rows: Tensor, centres: Tensor) -> Tensor:
    return (rows.square().sum(1)[:, None] - 2 * rows @ centres.T + centres.square().sum(1)).clamp(min=0)
