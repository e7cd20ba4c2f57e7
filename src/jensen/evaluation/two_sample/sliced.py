"""Sliced Wasserstein distance: the mean over directions of W₁ between the projected samples (Rabin et al. 2012; Bonneel et al. 2015).

For unit directions drawn once from a seed. Between empirical laws it is biased upwards, so it comes with a permutation test.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.divergence.permutations import labels, p_value
from jensen.evaluation.two_sample.measure import Measure
from jensen.noise import Noise

DIRECTIONS, PERMUTATIONS = 64, 99


def sliced(
    real: Float[Tensor, "n d"], drawn: Float[Tensor, "n d"], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Measure:
    """The mean W₁ over 64 directions, of equal numbers of rows, with its p-value."""
    count = min(len(real), len(drawn))
    rows = torch.cat([real[:count], drawn[:count]])
    way = Noise(seed, "directions").normal(range(DIRECTIONS), (rows.shape[1],)).double()
    lines = rows @ torch.nn.functional.normalize(way, dim=1).T
    own = labels(count, count, permutations, seed).T > 0.5
    values = torch.stack([_distance(lines[z], lines[~z]) for z in own])
    note = f"mean of W1 over {DIRECTIONS} directions, {count} and {count} rows"
    return Measure("sliced wasserstein", float(values[0]), "lower", p_value=p_value(values), note=note)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.sort(0).values - b.sort(0).values).abs().mean()
