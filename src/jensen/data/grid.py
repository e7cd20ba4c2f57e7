"""Real columns that lie on a grid: whole numbers, codes, a few different values.

A density on such a column has no upper limit: a model that finds the grid can put ever narrower peaks on it, and its
log-density grows with them while it learns nothing. So such columns are named wherever the data are described.
"""

import torch
from torch import Tensor

from jensen.data.examples import Examples

MOST_SHOWN, MOST_ROWS, FEWEST_ROWS = 5, 20_000, 20
SHARE = 20  # a column with no more than one different value in so many rows has few


def grid_notes(train: Examples, columns: tuple[str, ...] = ()) -> list[str]:
    """A sentence that names the real columns on a grid, or nothing.

    Args:
        train: the rows to look at, at most the first 20,000.
        columns: the columns' names, where they have any.
    """
    if not train.x.is_floating_point() or len(train) < FEWEST_ROWS:
        return []
    found = [c for c, column in enumerate(train.x[:MOST_ROWS].flatten(1).T) if _on_a_grid(column)]
    if not found:
        return []
    names = [columns[c] if columns else str(c) for c in found[:MOST_SHOWN]]
    listed = ", ".join(names) + (f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else "")
    return [
        f"dimension{'s' if len(found) > 1 else ''} {listed}: whole numbers or few different values; a density on them grows "
        "without limit as a model finds them, so do not compare such log-densities; drop them, or give whole-number arrays"
    ]


def _on_a_grid(column: Tensor) -> bool:
    seen = column[~column.isnan()]
    if len(seen) < FEWEST_ROWS:
        return False
    return bool((seen == seen.round()).all()) or len(torch.unique(seen)) <= max(2, len(seen) // SHARE)
