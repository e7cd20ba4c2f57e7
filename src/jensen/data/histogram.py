"""How often each level occurs in rows, all dimensions together: where a network that says p(level) should start."""

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
