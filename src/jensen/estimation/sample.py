"""Rows to estimate from, with their weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.errors import InputError

Rows = Tensor | np.ndarray[Any, Any] | list[Any]


@dataclass(frozen=True)
class Sample:
    """Rows `x (n,)` or `(n, d)` and their weights `w (n,)`, float64; `n`, the sum of the weights."""

    x: Tensor
    w: Tensor

    @property
    def n(self) -> float:
        """How many rows the weights stand for."""
        return float(self.w.sum())

    def mean(self, values: Float64[Tensor, "n *rest"]) -> Tensor:
        """The weighted mean over rows."""
        return torch.tensordot(self.w, values, 1) / self.w.sum()


def as_sample(x: Rows, weights: Rows | None = None, axes: int = 1) -> Sample:
    """Rows and weights as float64, checked; rows of weight zero left out.

    Args:
        x: rows.
        weights: one a row; 1 each if None.
        axes: 1 for rows that are numbers, 2 for rows that are vectors.

    Raises:
        InputError: another shape, no rows, values that are not finite, weights that cannot be.
    """
    rows = torch.as_tensor(x, dtype=torch.float64).detach().cpu()
    if axes == 1 and rows.ndim == 2 and rows.shape[1] == 1:
        rows = rows[:, 0]
    if rows.ndim != axes or len(rows) == 0:
        wanted = "(n,)" if axes == 1 else "(n, d)"
        raise InputError(f"rows must have shape {wanted} with n from 1, got {tuple(rows.shape)}; reshape them")
    if not bool(torch.isfinite(rows).all()):
        raise InputError("a value is NaN or infinite; estimates need finite values: remove or replace such rows")
    given = [1.0] * len(rows) if weights is None else weights
    w = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    if w.shape != (len(rows),):
        raise InputError(f"weights must be one a row, shape ({len(rows)},), got {tuple(w.shape)}")
    if not bool(torch.isfinite(w).all()) or float(w.min()) < 0 or float(w.sum()) <= 0:
        raise InputError(f"weights must be finite, not negative and not all zero, got {float(w.min()):g} as the least")
    return Sample(rows[w > 0], w[w > 0])
