"""Missing cells (NaN), told by their place: the line of a table, the row of anything else."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.data.examples import Examples
from jensen.errors import InputError


def require_complete(facts: dict[str, Any], *parts: Examples) -> None:
    """Refuse rows with missing cells, for a model that needs complete ones; names the first in the source's order.

    Args:
        facts: what is known of the source (`Split.facts`).
        parts: its rows.
    """
    found = [place for part in parts if (place := _first(part)) is not None]
    if not found:
        return
    count = sum(int(part.x.isnan().sum()) for part in parts)
    row, cell = min(found)
    raise InputError(
        f"{_place(facts, row, cell)} is missing (NaN), {'alone' if count == 1 else f'the first of {count}'}, and this "
        "model needs complete rows; drop or fill such rows"
    )


def _first(part: Examples) -> tuple[int, tuple[int, ...]] | None:
    """The id of the first row with a missing cell, and the place of the cell in it."""
    if not part.x.is_floating_point():
        return None
    odd = part.x.isnan().flatten(1).any(1).nonzero().flatten().tolist()
    if not odd:
        return None
    row = min(odd, key=lambda number: int(part.id[number]))
    return int(part.id[row]), tuple(part.x[row].isnan().nonzero()[0].tolist())


def _place(facts: dict[str, Any], row: int, cell: tuple[int, ...]) -> str:
    columns = facts.get("columns") or []
    if facts.get("kind") != "csv":
        where = "the array" if facts.get("source", "array") == "array" else repr(facts["source"])
        return f"{where}, row {row}: cell {cell[0] if len(cell) == 1 else cell}"
    name = f" ({columns[cell[0]]!r})" if columns else ""
    column = cell[0] + 1
    column += column >= (facts.get("label_column") or math.inf)  # the label's column is not among the cells
    return f"table {facts['source']!r}, line {row + (2 if columns else 1)}: column {column}{name}"


def check_draws(draws: int | None) -> None:
    """Refuse a number of draws of missing cells below 1; None asks for their mean."""
    if draws is not None and draws < 1:
        raise InputError(f"the number of draws must be at least 1, got {draws}")


def row_knowing(values: Mapping[int, float], dims: int) -> Float64[Tensor, " d"]:
    """One row with these values in these columns, and its other cells missing.

    Args:
        values: column number → value.
        dims: d.

    Raises:
        InputError: no such column, all columns or none, a value that is not finite.
    """
    columns = sorted(values)
    if any(not 0 <= column < dims for column in columns) or not 0 < len(columns) < dims:
        raise InputError(f"columns must be some but not all of 0 … {dims - 1}, got {columns}")
    row = torch.full((dims,), math.nan, dtype=torch.float64)
    for column in columns:
        row[column] = float(values[column])
    if int(row.isfinite().sum()) != len(columns):
        raise InputError(f"values must be finite numbers, got {dict(values)}")
    return row
