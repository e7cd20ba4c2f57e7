"""Reading rows in chunks: flat, weighted, in the arithmetic of the fit, whatever they come from.

Small data are read once and kept, rows of equal missing pattern side by side; larger data are read again in every pass,
so that memory does not grow with the number of rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.data.codec import refuse_constant
from jensen.data.examples import Batch, checked_weights
from jensen.data.examples import Rows as Rows
from jensen.errors import InputError

KEPT_CELLS = 1 << 26  # data of at most so many cells are read once: 256 MiB in float32
PASS_ROWS = 16384


@dataclass(frozen=True)
class Chunk:
    """Some rows: `x (m, d)` floating point with NaN where a cell is missing, and `weight (m,)` of the same dtype."""

    x: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def at(self, index: Tensor | slice) -> "Chunk":
        """The rows at these positions."""
        return Chunk(self.x[index], self.weight[index])


def chunk_of(batch: Batch) -> Chunk:
    """A batch as a chunk: float64 rows stay float64, all others become float32 or keep it.

    Raises:
        InputError: a value is infinite, or a weight is negative or not finite.
    """
    x = batch.x.flatten(1)
    x = x if x.dtype == torch.float64 else x.float()
    if batch.weight is None:
        return Chunk(x, x.new_ones(len(x)))
    return Chunk(x, checked_weights(batch.weight.to(x)))


class Chunks:
    """Rows as chunks, in one order in every pass; `complete` once `scale_of` has seen that no cell is missing."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.kept: Chunk | None = None
        self.complete = False
        if len(rows) == 0:
            raise InputError("there are no rows to fit; give at least one")
        self.event_shape = tuple(rows.batch(slice(0, 1)).x.shape[1:])
        if len(rows) * math.prod(self.event_shape) <= KEPT_CELLS:
            self.kept = _by_pattern(chunk_of(rows.batch(slice(0, len(rows)))))

    def __len__(self) -> int:
        return len(self.rows)

    def passing(self, size: int = PASS_ROWS) -> Iterator[Chunk]:
        """All rows, at most `size` at a time."""
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield self.kept.at(part) if self.kept else chunk_of(self.rows.batch(part))

    def views(self) -> Iterator[Chunk]:
        """All rows; those that are kept in one chunk, for readers that take no memory of their own."""
        return iter([self.kept]) if self.kept else self.passing()

    def at(self, positions: Tensor) -> Chunk:
        """The rows at these positions of that order."""
        return self.kept.at(positions) if self.kept else chunk_of(self.rows.batch(positions))


def _by_pattern(chunk: Chunk) -> Chunk:
    """The same rows, complete ones first, then those with equal missing cells together; stable."""
    if not any(bool(part.isnan().any()) for part in chunk.x.split(PASS_ROWS)):
        return chunk
    pattern = torch.unique(chunk.x.isnan(), dim=0, return_inverse=True)[1]
    return chunk.at(pattern.argsort(stable=True))


@dataclass(frozen=True)
class Scale:
    """Where the data are, float64.

    Attributes:
        weight: the total.
        mean: `(d,)` of observed cells.
        variance: `(d,)` of observed cells.
    """

    weight: float
    mean: Tensor
    variance: Tensor


def scale_of(chunks: Chunks) -> Scale:
    """One pass, by Chan's pairwise update (Chan, Golub and LeVeque 1983): no difference of large sums.

    Raises:
        InputError: a value is infinite; a column has no value, or one value only; all weights are 0.
    """
    total, complete = 0.0, True
    count = mean = square = torch.zeros((), dtype=torch.float64)
    for chunk in chunks.passing():
        x, weight = chunk.x.double(), chunk.weight.double()
        if bool(torch.isinf(x).any()):
            raise InputError("a value is infinite; densities need finite values: remove or replace such rows")
        seen = weight[:, None] * ~x.isnan()
        complete = complete and not bool(x.isnan().any())
        here = seen.sum(0)
        centre = (seen * x.nan_to_num(nan=0.0)).sum(0) / here.clamp(min=1e-300)
        spread = (seen * (x.nan_to_num(nan=0.0) - centre).square()).sum(0)
        both = count + here
        gap = centre - mean
        square = square + spread + gap.square() * count * here / both.clamp(min=1e-300)
        mean = mean + gap * here / both.clamp(min=1e-300)
        count, total = both, total + float(weight.sum())
    if total == 0:
        raise InputError("the weights sum to 0; give some row a weight")
    chunks.complete = complete
    variance = square / count
    refuse_constant(mean.reshape(chunks.event_shape), variance.sqrt().reshape(chunks.event_shape))
    return Scale(total, mean, variance)
