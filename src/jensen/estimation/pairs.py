"""Rows x with their targets y, to estimate p(y | x) from: checked tables, and which rows are held out."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.data.examples import Examples
from jensen.errors import InputError, brief
from jensen.noise import Noise

Array = Tensor | np.ndarray[Any, Any] | list[Any]


def table(name: str, values: Array, columns: int | None = None) -> Float64[Tensor, "n columns"]:
    """Finite rows `(n, columns)`; `(n,)` counts as one column.

    Raises:
        InputError: no numbers, another shape, a value that is missing or infinite.
    """
    try:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        rows = torch.from_numpy(np.array(array, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a table of numbers, got {brief(values)}: {brief(str(error))}") from error
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or 0 in rows.shape or rows.shape[1] != (columns or rows.shape[1]):
        wanted = "(rows, columns)" if columns is None else f"(rows, {columns})"
        raise InputError(f"{name} must have shape {wanted} with at least one row, got {tuple(rows.shape)}; reshape it")
    bad = (~torch.isfinite(rows)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise InputError(
            f"{name} must be finite, but row {row}, column {column} is {float(rows[row, column])} (NaN is a missing value); "
            "remove or replace such rows"
        )
    return rows


def pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both, if they have as many rows.

    Raises:
        InputError: they have not.
    """
    if len(x) != len(y):
        raise InputError(f"x and y must have as many rows, got {len(x)} and {len(y)}; give one row of y for each of x")
    return x, y


def examples(x: Tensor, y: Tensor) -> Examples:
    """Rows for the training loop: y is what is scored, x its context."""
    return Examples(y, torch.arange(len(y)), x)


def held_out(rows: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Rows to train on, and a share of at least one to watch, drawn by the seed.

    Raises:
        InputError: a share that is none, fewer than three rows.
    """
    if not 0 < share < 1:
        raise InputError(f"valid must be a share of the rows between 0 and 1, ends excluded, or (x, y), got {share}")
    if len(rows) < 3:
        raise InputError(f"at least 3 rows are needed to fit to some and watch others, got {len(rows)}; take more")
    order = Noise(seed, "valid").permutation(len(rows))
    count = min(len(rows) - 2, max(1, round(share * len(rows))))
    return rows.take(order[count:].sort().values), rows.take(order[:count].sort().values)
