"""Sliced Wasserstein distance: the mean over directions of W₁ between the projected samples (Rabin et al. 2012; Bonneel et al. 2015).

For unit directions drawn once from a seed. Between empirical laws it is biased upwards, so it comes with a permutation test.

With s = sign(G - F) on the line and f' = s (Kantorovich's potential, Santambrogio 2015, section 1.2), W₁ = ∫ |G - F| = mean f over x - mean f
over y: for each row the mean of its potentials over the directions is its share, and the standard error is that of a difference of means.
Of one law it is too large: potentials follow chance then.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.divergence.permutations import p_value
from jensen.evaluation.two_sample.measure import Measure
from jensen.noise import Noise

DIRECTIONS = 64
PERMUTED = 99  # of the permutations: each is sorted along every direction
Labels = Float[Tensor, "rows b"]


def sliced(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], z: Labels, seed: int = 0) -> Measure:
    """The mean W₁ over 64 directions, with its p-value.

    Args:
        real: real rows.
        drawn: the others.
        z: `permutations.labels(n, m, …)`.
        seed: of the directions.
    """
    rows, z = torch.cat([real, drawn]), z[:, : PERMUTED + 1]
    way = Noise(seed, "directions").normal(range(DIRECTIONS), (rows.shape[1],)).double()
    lines = rows @ torch.nn.functional.normalize(way, dim=1).T
    total, share = z.new_zeros(z.shape[1]), torch.zeros(len(rows), dtype=torch.float64)
    for line in lines.T:
        value, potential = _on_a_line(line, z)
        total += value / DIRECTIONS
        share += potential / DIRECTIONS
    n = len(real)
    error = math.sqrt(float(share[:n].var()) / n + float(share[n:].var()) / len(drawn))
    note = f"mean of W1 over {DIRECTIONS} directions, {n} and {len(drawn)} rows"
    return Measure("sliced wasserstein", float(total[0]), "lower", None, error, p_value(total), note)


def _on_a_line(line: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """W₁ for each column of labels, and the potential of each row for the first."""
    values, place = line.sort()
    own, gaps = z[place], values.diff()
    below = (own / own.sum(0)).cumsum(0) - ((1 - own) / (1 - own).sum(0)).cumsum(0)
    steps = gaps * -below[:-1, 0].sign()
    potential = torch.zeros_like(line)
    potential[place] = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    return gaps @ below[:-1].abs(), potential
