"""How often each level occurs in rows, and what cells are on average: where a network should start."""

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.data.examples import Rows
from jensen.data.space import Levels

READ = 1024


def level_counts(rows: Rows, space: Levels) -> Float64[Tensor, " k"]:
    """The number of cells on each level, a batch of rows at a time; every row counts once.

    Args:
        rows: complete rows on the levels.
        space: the levels.
    """
    counts = torch.zeros(space.k, dtype=torch.float64)
    for start in range(0, len(rows), READ):
        index = space.index(rows.batch(slice(start, start + READ)).x.double())
        counts += torch.bincount(index.flatten(), minlength=space.k)
    return counts


def cell_counts(rows: Rows, space: Levels, cells: int) -> Float64[Tensor, "cells k"]:
    """How often each cell is on each level, `cells · k` numbers; every row counts once."""
    counts = torch.zeros(cells, space.k, dtype=torch.float64)
    for start in range(0, len(rows), READ):
        index = space.index(rows.batch(slice(start, start + READ)).x.flatten(1).double()).cpu().T
        counts.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float64))
    return counts


def cell_means(rows: Rows) -> Float64[Tensor, "*event"]:
    """The mean of each cell; every row counts once."""
    sums = [rows.batch(slice(i, i + READ)).x.double().sum(0).cpu() for i in range(0, len(rows), READ)]
    return torch.stack(sums).sum(0) / len(rows)
