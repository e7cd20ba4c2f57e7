"""What may be asked of a hidden Markov model: words, sizes, units."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from jensen.data.codec import Affine
from jensen.data.space import Levels, Space
from jensen.errors import InputError
from jensen.hmm.layout import Layout

Kind = Literal["auto", "gaussian", "mixture", "categorical"]
Structure = Literal["diag", "full", "tied", "spherical"]


def kind_for(emission: Kind, space: Space) -> Kind:
    """The emission for the space, "auto" decided."""
    if emission == "auto":
        return "categorical" if isinstance(space, Levels) else "gaussian"
    if (emission == "categorical") != isinstance(space, Levels):
        fit = "categorical" if isinstance(space, Levels) else "gaussian or mixture"
        raise InputError(f"emission must be {fit} (or auto) for {space}, got {emission!r}")
    return emission


def check(given: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be."""
    for name in ("n_states", "n_components", "max_iterations", "restarts", "max_states"):
        if given[name] not in ("auto", None) and given[name] < 1:
            raise InputError(f"{name} must be at least 1, got {given[name]}")
    for name in ("prior_rows", "prior_counts", "prior_levels", "tolerance"):
        if given[name] is not None and not 0 <= given[name] < math.inf:
            raise InputError(f"{name} must be at least 0 and finite, got {given[name]}")
    for name, words in (("covariance", get_args(Structure)), ("emission", get_args(Kind))):
        if given[name] not in words:
            raise InputError(f"{name} must be one of {', '.join(words)}, got {given[name]!r}")


def standardised(layout: Layout, x: Tensor) -> Affine:
    """One shift and scale a feature for all steps: a chain that does not change with time must not see its units change.

    Raises:
        InputError: a feature that is the same, or missing, at every step of every row.
    """
    steps = layout.steps(x.double()).flatten(0, 1)
    mean = steps.nanmean(0)
    deviation = (steps - mean).square().nanmean(0).sqrt()
    _refuse_constant(mean, deviation)
    return Affine(layout.per_feature(mean), layout.per_feature(deviation))


def _refuse_constant(mean: Tensor, deviation: Tensor) -> None:
    constant = ~(deviation > 1e-12 * mean.abs())
    if not bool(constant.any()):
        return
    at = int(constant.nonzero()[0])
    which = f"number {at + 1} of {len(mean)} of each step"
    if bool(deviation[at].isnan()):
        raise InputError(f"{which} has no values in the training rows; drop it")
    raise InputError(
        f"{which} is constant in the training rows (value {float(mean[at]):g}), so its density is infinite; drop it"
    )


def simplex(values: Tensor, name: str) -> Tensor:
    """Probabilities along the last axis, divided by their sum."""
    values = values.double()
    sums = values.sum(-1, keepdim=True)
    if not bool((values >= 0).all()) or not bool(((sums > 0) & sums.isfinite()).all()):
        raise InputError(f"{name} must be at least 0 with a finite positive sum, got {values.tolist()}")
    return values / sums
