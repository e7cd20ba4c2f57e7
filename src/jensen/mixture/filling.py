"""Missing cells under a mixture: their mean, draws of them, and the mixture of the columns that are left."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.mixture.choices import Structure
from jensen.mixture.density import Density
from jensen.mixture.parameters import Parameters
from jensen.noise import Noise


def filled(
    density: Density, x: Float[Tensor, "B d"], draws: int | None, ids: Int[Tensor, " B"], noise: Noise
) -> Float[Tensor, "*draws B d"]:
    """Rows with their missing cells filled in: by E[x_m | x_o], or by draws from p(x_m | x_o), exact both.

    Args:
        density: the mixture.
        x: rows, NaN where a cell is missing.
        draws: None for the mean.
        ids: the rows' ids, which key their draws.
        noise: the source of draws.
    """
    if draws is None:
        return density.fill(x)
    parts = []
    for number in range(draws):
        u = noise.at(number, "component").uniform(ids).to(x.device)
        eps = noise.at(number).normal(ids, (density.eps_dims,)).double().to(x.device)
        parts.append(density.fill_by_chance(x, u, eps))
    return torch.stack(parts)


def conditional(density: Density, row: Float[Tensor, " d"], rank: int) -> tuple[Parameters, Structure]:
    """p(the missing cells of a row | its observed ones), a mixture again, and the word of its structure: full, or diag
    or factors as the mixture is; factors in no more dimensions than their rank are full.
    """
    given, kind = density.conditional(row), density.normals.kind
    if kind != "factors" or given.dims > rank:
        return given, kind
    matrices = density.covariance.matrices(given.spread, given.components)
    return Parameters(given.weights, given.means, {"covariances": matrices}), "full"
