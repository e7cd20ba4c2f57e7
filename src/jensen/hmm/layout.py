"""What a sequence is: which axis of a row is time, and rows as steps.

    (T,)         T steps of one number
    (T, d)       T steps of d numbers
    (C, H, W)    H steps of C·W numbers: an image is read from top to bottom

A float array `(N, T, d)` reaches a model as it is, an image or an array with a channel axis as `(C, T, d)`: time is the
second-last axis wherever there are two or more. Steps are `(T, B, d)`, time first. A step without a single observed
cell is *empty*; empty steps at the end of a row are no part of the sequence, so a short sequence is one that ends in NaN.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.data.examples import Batch
from jensen.mixture.rows import Rows


@dataclass(frozen=True)
class Layout:
    """The axes of a row.

    Args:
        event_shape: of a row, one axis or more.

    Example:
        >>> Layout((3, 10, 4)).times, Layout((3, 10, 4)).dims
        (10, 12)
    """

    event_shape: tuple[int, ...]

    @property
    def times(self) -> int:
        """T."""
        return self.event_shape[0] if len(self.event_shape) == 1 else self.event_shape[-2]

    @property
    def dims(self) -> int:
        """d, numbers a step."""
        return math.prod(self.event_shape) // self.times

    def steps(self, x: Tensor) -> Tensor:
        """Rows `(B, *event)` as steps `(T, B, d)`; in memory sequences come last, as operations run along them."""
        parted = x.reshape(len(x), -1, self.times, self.event_shape[-1] if len(self.event_shape) > 1 else 1)
        return parted.permute(2, 1, 3, 0).reshape(self.times, self.dims, len(x)).contiguous().mT

    def rows(self, steps: Tensor) -> Tensor:
        """Steps `(T, B, d)` as rows `(B, *event)`."""
        width = self.event_shape[-1] if len(self.event_shape) > 1 else 1
        parted = steps.reshape(self.times, steps.shape[1], -1, width).permute(1, 2, 0, 3)
        return parted.reshape(steps.shape[1], *self.event_shape)

    def per_feature(self, value: Tensor) -> Tensor:
        """One number for each of the d features, in a shape that broadcasts over rows: the same at every step."""
        width = self.event_shape[-1] if len(self.event_shape) > 1 else 1
        parted = value.reshape(-1, 1, width)
        return parted.reshape(1) if len(self.event_shape) == 1 else parted.reshape(*self.event_shape[:-2], 1, width)


def lengths(steps: Tensor) -> Tensor:
    """How many steps each sequence has: the number of its last step with an observed cell, `(B,)`."""
    missing = missing_cells(steps)
    if missing is None:
        return torch.full((steps.shape[1],), len(steps), device=steps.device)
    seen = ~missing.all(2)
    numbers = torch.arange(1, len(steps) + 1, device=steps.device)
    return (seen * numbers[:, None]).amax(0)


def missing_cells(steps: Tensor) -> Tensor | None:
    """Which cells are NaN, or None if none is; the sum tells most arrays that have none in a fraction of the time."""
    if not bool(steps.sum().isnan()):
        return None
    missing = steps.isnan()
    return missing if bool(missing.any()) else None


class Steps:
    """Sequences as rows that are their steps, for what looks at steps without their order; empty ones weigh nothing.

    Args:
        rows: the sequences.
        layout: of a row.
    """

    def __init__(self, rows: Rows, layout: Layout) -> None:
        self.sequences, self.layout = rows, layout

    def __len__(self) -> int:
        return len(self.sequences) * self.layout.times

    def batch(self, indices: Tensor | slice) -> Batch:
        """The steps at these positions, sequence after sequence."""
        chosen = torch.arange(len(self))[indices]
        of = torch.div(chosen, self.layout.times, rounding_mode="floor")
        needed, place = of.unique(return_inverse=True)
        batch = self.sequences.batch(needed)
        x = self.layout.steps(batch.x)[chosen % self.layout.times, place]
        weight = x.new_ones(len(x)) if batch.weight is None else batch.weight.to(x)[place]
        return Batch(x, chosen, None, weight * ~x.isnan().all(1))
