"""Where EM starts: k-means++ on a sample of standardised rows, and a few rounds of k-means.

Centres are drawn one after the other, each row with a chance in proportion to its squared distance to the nearest one
so far (Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding"); of a few draws the one that
lowers the total most is taken. The clusters then give weights, means and covariances by one M-step.
"""

import math

import torch
from torch import Tensor

from jensen.errors import InputError
from jensen.mixture.em import Problem, maximise
from jensen.mixture.parameters import Parameters
from jensen.mixture.rows import Chunk
from jensen.mixture.statistics import Statistics
from jensen.mixture.view import View
from jensen.noise import Noise

ROUNDS = 10
SAMPLE, SAMPLE_EACH = 4000, 100
ALL_POSITIONS = 1 << 22


def sample_rows(problem: Problem, count: int, noise: Noise) -> Chunk:
    """At most `count` different rows, by chance."""
    n = len(problem.chunks)
    if n <= ALL_POSITIONS:
        return problem.chunks.at(noise.permutation(n)[:count].sort().values)
    drawn = (noise.uniform(range(count)) * n).long()
    return problem.chunks.at(drawn.unique())


def clustered(problem: Problem, components: int, noise: Noise) -> Parameters:
    """A start with K components.

    Raises:
        InputError: fewer rows than components.
    """
    if components > len(problem.chunks):
        raise InputError(f"n_components is {components}, more than the {len(problem.chunks)} training rows; lower it")
    chunk = sample_rows(problem, max(SAMPLE, SAMPLE_EACH * components), noise.at("rows"))
    mean, sd = problem.scale.mean, problem.scale.variance.sqrt()
    rows = torch.where(chunk.x.isnan(), 0.0, (chunk.x.double() - mean) / sd)
    weight = chunk.weight.double()
    label = _k_means(rows, weight, components, noise)

    def look(view: View) -> Statistics:
        return _hard(rows * sd, mean, weight, label, components, view).scaled(
            problem.scale.weight / max(float(weight.sum()), 1e-300)
        )

    return maximise(problem.covariance.look(look, components, len(mean), noise), problem.covariance, problem.prior)


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
    cumulative = (mass if float(mass.sum()) > 0 else torch.ones_like(mass)).cumsum(0)
    return torch.searchsorted(cumulative, u * cumulative[-1], right=True).clamp(max=len(mass) - 1)


def _square_distances(rows: Tensor, centres: Tensor) -> Tensor:
    return (rows.square().sum(1)[:, None] - 2 * rows @ centres.T + centres.square().sum(1)).clamp(min=0)


def _hard(offset: Tensor, centre: Tensor, weight: Tensor, label: Tensor, components: int, view: View) -> Statistics:
    """The statistics of rows that belong to one component each, about the mean of the data."""
    share = torch.nn.functional.one_hot(label, components).to(offset) * weight[:, None]
    own = [(offset[label == k][None], weight[label == k][:, None]) for k in range(components)]
    seen = [view.pick(torch.tensor([k])).gram(rows * w, rows) for k, (rows, w) in enumerate(own)]
    everywhere = centre.expand(components, -1)
    return Statistics(everywhere, share.sum(0), share.T @ offset, torch.cat(seen), view, 0.0, float(weight.sum()))
