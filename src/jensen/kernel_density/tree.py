"""Rows in leaves of a k-d tree, with the box of each leaf.

Rows are halved at the median of the dimension in which they spread most, until a leaf's worth is left (Bentley 1975,
"Multidimensional binary search trees used for associative searching"). The distance from a point to a leaf's box is a
lower bound on its distance to every row there; one look at all boxes replaces the walk down the tree, since a leaf is
as much work as a matrix product likes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor


@dataclass(frozen=True)
class Leaves:
    """Rows in the order of their leaves.

    Attributes:
        order: positions of the rows, those of one leaf side by side.
        size: rows of a leaf; the last one may hold fewer.
        low: `(L, d)` the boxes' lower corners.
        high: `(L, d)` their upper ones.
    """

    order: Int[Tensor, " n"]
    size: int
    low: Float64[Tensor, "L d"]
    high: Float64[Tensor, "L d"]

    def __len__(self) -> int:
        return len(self.low)

    def rows(self, leaf: int) -> Tensor:
        """Positions of the rows of a leaf."""
        return self.order[leaf * self.size : (leaf + 1) * self.size]

    def gaps(self, x: Float64[Tensor, "B d"], largest: bool = False) -> Float64[Tensor, "L B"]:
        """The squared distance of every row to every box; or, squared, the largest gap in a dimension."""
        total = x.new_zeros(len(self), len(x))
        for low, high, column in zip(self.low.T, self.high.T, x.T, strict=True):
            gap = torch.maximum(low[:, None] - column, column - high[:, None]).clamp_(min=0).square_()
            total = torch.maximum(total, gap) if largest else total.add_(gap)
        return total


def leaves(points: Float64[Tensor, "n d"], size: int) -> Leaves:
    """A k-d tree of points, its leaves of `size` rows but for the last."""
    waiting, found = [torch.arange(len(points), device=points.device)], []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= size:
            found.append(rows)
            continue
        inside = points[rows]
        widest = int((inside.amax(0) - inside.amin(0)).argmax())
        rows = rows[inside[:, widest].argsort(stable=True)]
        half = (-(-len(rows) // size) + 1) // 2 * size  # whole leaves on the left, so that only the last is short
        waiting += [rows[half:], rows[:half]]
    return _boxed(points, torch.cat(found), size)


def as_they_are(points: Tensor, size: int) -> Leaves:
    """Rows in their order, `size` at a time, with boxes that exclude nothing."""
    count = -(-len(points) // size)
    everywhere = torch.full((count, points.shape[1]), torch.inf, dtype=torch.float64, device=points.device)
    return Leaves(torch.arange(len(points), device=points.device), size, -everywhere, everywhere)


def _boxed(points: Tensor, order: Tensor, size: int) -> Leaves:
    parts = [points[rows] for rows in order.split(size)]
    return Leaves(order, size, torch.stack([p.amin(0) for p in parts]), torch.stack([p.amax(0) for p in parts]))
