"""The settings of a mixture: which there are, what they are for so many rows and dimensions, and which cannot be."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jensen.errors import InputError
from jensen.mixture.factors import WHOLE_DIMS

Structure = Literal["full", "tied", "diag", "spherical", "factors"]
Criterion = Literal["held-out", "bic"]
ROWS_A_DIM, MANY_CELLS = 10, 10**7
RESTARTS = 3
FINE, COARSE = 1e-7, 1e-6  # tolerance: nats a row; nats a row and dimension where there are many cells


def chosen(rows: int, dims: int) -> dict[str, Any]:
    """The covariance for so many rows and dimensions; the number of starts and the tolerance for so many cells."""
    full = dims == 1 or (dims <= WHOLE_DIMS and rows >= ROWS_A_DIM * dims)
    few = rows * dims <= MANY_CELLS
    return {
        "covariance": "full" if full else "factors",
        "restarts": RESTARTS if few else 1,
        "tolerance": FINE if few else COARSE * dims,
    }


def check(dims: int, given: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be.

    Args:
        dims: d.
        given: the settings by their names, and anything else.
    """
    for name in ("n_components", "rank", "max_iterations", "restarts", "max_components"):
        if given[name] not in ("auto", None) and given[name] < 1:
            raise InputError(f"{name} must be at least 1, got {given[name]}")
    for name in ("prior_rows", "prior_counts", "tolerance"):
        if given[name] is not None and not 0 <= given[name] < math.inf:
            raise InputError(f"{name} must be at least 0 and finite, got {given[name]}")
    for name, words in (("covariance", get_args(Structure)), ("criterion", get_args(Criterion))):
        if given[name] is not None and given[name] not in words:
            raise InputError(f"{name} must be one of {', '.join(words)}, got {given[name]!r}")
    if given["covariance"] == "factors" and dims < 2:
        raise InputError("factors need at least 2 dimensions; use covariance diag")
