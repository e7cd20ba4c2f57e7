"""Rows with their classes, read in passes, and the moments of every column within every class.

    n_kd = Σ w_i,   m_kd = Σ w_i x_id / n_kd,   v_kd = Σ w_i (x_id - m_kd)² / n_kd

over the rows i of class k whose cell d is observed: missing cells are left out, which is exact where columns are
independent given the class. Two passes, so that no difference of large sums is taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.data.examples import Rows
from jensen.data.labels import check_codes
from jensen.errors import InputError

PASS_ROWS = 1024
WAY_OUT = (
    "give a table's column of classes with --label COLUMN, a folder with a folder for each class, or a .npz with y"
)


@dataclass(frozen=True)
class Part:
    """Some rows: values `x (m, D)` float64 with NaN where a cell is missing, classes `y (m,)`, weights `(m,)` float64."""

    x: Float[Tensor, "m D"]
    y: Int[Tensor, " m"]
    weight: Float[Tensor, " m"]


@dataclass(frozen=True)
class Labelled:
    """Rows with classes 0, …, K-1.

    Args:
        rows: the rows, whose context is their class.
        classes: K.
        columns: the columns of the flattened row to look at; all if None.
    """

    rows: Rows
    classes: int
    columns: Tensor | None = None

    def only(self, columns: Tensor) -> "Labelled":
        """The same rows with these columns alone."""
        return Labelled(self.rows, self.classes, columns)

    def passing(self) -> Iterator[Part]:
        """All rows, at most `PASS_ROWS` at a time.

        Raises:
            InputError: rows without classes, or with others than 0, …, K-1; a negative or infinite weight.
        """
        for start in range(0, len(self.rows), PASS_ROWS):
            batch = self.rows.batch(slice(start, start + PASS_ROWS))
            if batch.context is None:
                raise InputError(f"the rows have no classes to learn from; {WAY_OUT}")
            y = checked(batch.context, self.classes)
            x = batch.x.flatten(1).double()
            yield Part(x if self.columns is None else x[:, self.columns], y, batch.weights())

    def of_class(self, k: int) -> Part:
        """All rows of one class whose weight is not 0."""
        parts = [(part, (part.y == k) & (part.weight > 0)) for part in self.passing()]
        return Part(
            torch.cat([part.x[own] for part, own in parts]),
            torch.cat([part.y[own] for part, own in parts]),
            torch.cat([part.weight[own] for part, own in parts]),
        )


def checked(codes: Tensor, classes: int) -> Int[Tensor, " m"]:
    """Class codes as int64.

    Raises:
        InputError: codes that are no whole numbers, or not 0, …, K-1.
    """
    if codes.ndim != 1 or codes.is_floating_point() or codes.is_complex():
        raise InputError(
            f"classes must be one whole number a row, got {str(codes.dtype).removeprefix('torch.')} of shape {tuple(codes.shape)}"
        )
    check_codes(codes, classes, f"classes must be from 0 to {classes - 1}")
    return codes.long()


@dataclass(frozen=True)
class Moments:
    """Where the columns are, float64.

    Attributes:
        mass: `(K,)` weight of each class.
        count: `(K, D)` weight of the observed cells.
        mean: `(K, D)`; that of all classes where a class has no cell.
        variance: `(K, D)`; 0 where a class has no cell.
        everywhere: `(D,)` mean over all classes; NaN where a column has no cell.
        spread: `(D,)` variance over all classes; NaN where a column has no cell.
        within: `(D,)` variance within classes, pooled, over its degrees of freedom (half its weight at least).
    """

    mass: Float[Tensor, " K"]
    count: Float[Tensor, "K D"]
    mean: Float[Tensor, "K D"]
    variance: Float[Tensor, "K D"]
    everywhere: Float[Tensor, " D"]
    spread: Float[Tensor, " D"]
    within: Float[Tensor, " D"]


def moments(rows: Labelled, dims: int) -> Moments:
    """The moments of labelled rows of D columns."""
    mass = torch.zeros(rows.classes, dtype=torch.float64)
    count, first, second = (torch.zeros(rows.classes, dims, dtype=torch.float64) for _ in range(3))
    for part in rows.passing():
        seen = part.weight[:, None] * ~part.x.isnan()
        mass.index_add_(0, part.y, part.weight)
        count.index_add_(0, part.y, seen)
        first.index_add_(0, part.y, seen * part.x.nan_to_num(nan=0.0))
    total = count.sum(0)
    everywhere = first.sum(0) / total
    mean = torch.where(count > 0, first / count, everywhere)
    for part in rows.passing():
        seen = part.weight[:, None] * ~part.x.isnan()
        second.index_add_(0, part.y, seen * (part.x - mean[part.y]).nan_to_num(nan=0.0).square())
    spread = (second + count * (mean - everywhere).square()).sum(0) / total
    within = second.sum(0) / torch.maximum(total - (count > 0).sum(0), 0.5 * total)
    return Moments(mass, count, mean, second / count.clamp(min=1e-300), everywhere, spread, within)
