"""Nearest training rows: does the model copy?

Distances are Euclidean, over all dimensions of a row, in data units. As a yardstick stand the distances of test rows,
which nobody copied, to their own nearest training rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.data.examples import Examples

CHUNK_CELLS = 1 << 22


@dataclass(frozen=True)
class Nearest:
    """For each query the position of its nearest row, `index (B,)`, and how far that is, `distance (B,)`."""

    index: Tensor
    distance: Tensor


def nearest(queries: Tensor, rows: Examples) -> Nearest:
    """The nearest of `rows` to each of `queries (B, *event)`, a chunk of rows at a time; the first of equals.

    ‖q - r‖² = ‖q‖² + ‖r‖² - 2 q·r in float64 finds the row, measured from the mean of the queries so that little
    cancels; its distance is then computed directly. Rows with missing cells are never the nearest.
    """
    q = queries.flatten(1).double()
    centre = q.mean(0)
    centred = q - centre
    best, index = torch.full((len(q),), torch.inf).double(), torch.zeros(len(q), dtype=torch.int64)
    size = max(1, CHUNK_CELLS // max(1, q.shape[1]))
    for start in range(0, len(rows), size):
        r = rows.x[start : start + size].flatten(1).double() - centre
        squared = r.square().sum(1) - 2 * centred @ r.T
        least, place = squared.nan_to_num(nan=torch.inf, posinf=torch.inf).min(1)
        closer = least < best
        best, index = torch.where(closer, least, best), torch.where(closer, start + place, index)
    distance = (q - rows.x[index].flatten(1).double()).square().sum(1).sqrt()
    return Nearest(index, distance)


def affordable(rows: Examples, queries: int, operations: float = 1e10) -> int:
    """How many queries can be compared with all rows within this many multiplications, at least 20."""
    cells = max(1, len(rows) * rows.x[0].numel())
    return int(min(queries, max(20, operations // cells)))
