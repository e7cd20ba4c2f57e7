"""The values that a discrete distribution can take, and their log-masses.

A finite support is listed whole. That of a Poisson, geometric or negative binomial law is cut where less than 10⁻¹⁸ of the
mass is left, which is below the rounding of any sum over it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Geometric,
    Independent,
    MixtureSameFamily,
    NegativeBinomial,
    OneHotCategorical,
    Poisson,
)

from jensen.distributions.density import log_density, support_of
from jensen.distributions.discretised import DiscretisedNormal
from jensen.distributions.families import tail_masses
from jensen.distributions.precision import in_double

MOST_ATOMS = 1 << 16
REST = 1e-18


@dataclass(frozen=True)
class Atoms:
    """Values `(n, *event)` float64, their log-masses `(n,)`, and whether these are all the values there are."""

    values: Float[Tensor, "n *event"]
    log_mass: Float[Tensor, " n"]
    whole: bool


def is_discrete(distribution: Distribution) -> bool:
    """Whether its law is one of masses: no density, unlike what its `support` says where that is the line."""
    if isinstance(distribution, MixtureSameFamily):
        return is_discrete(distribution.component_distribution)
    if isinstance(distribution, Independent):
        return is_discrete(distribution.base_dist)
    return isinstance(distribution, DiscretisedNormal) or bool(support_of(distribution).is_discrete)


def atoms_of(distribution: Distribution) -> Atoms | None:
    """Its values and log-masses, if it is discrete with at most 65,536 values; else None.

    Args:
        distribution: with batch_shape ().

    Example:
        >>> [round(float(p), 6) for p in atoms_of(Bernoulli(0.25)).log_mass.exp()]
        [0.75, 0.25]
    """
    distribution = in_double(distribution)
    found = _values(distribution)
    if found is None:
        return None
    values, whole = found
    log_mass = log_density(distribution, values)
    if whole:
        log_mass = log_mass.log_softmax(0)  # parameters rounded to float32 sum to 1 to seven digits only
    return Atoms(values, log_mass, whole)


def _values(d: Distribution) -> tuple[Tensor, bool] | None:
    """Values that every member of the batch takes, some of them perhaps with mass 0, and whether there are no others."""
    if isinstance(d, MixtureSameFamily):
        return _values(d.component_distribution)
    if isinstance(d, Independent):
        return _product(d)
    if isinstance(d, Bernoulli):
        return _count(2), True
    if isinstance(d, Categorical):
        k = d.logits.shape[-1]
        return (_count(k), True) if k <= MOST_ATOMS else None
    if isinstance(d, OneHotCategorical):
        return torch.eye(d.event_shape[0], dtype=torch.float64), True
    if isinstance(d, Binomial):
        n = int(d.total_count.max())
        return (_count(n + 1), True) if n < MOST_ATOMS else None
    if isinstance(d, DiscretisedNormal):
        return (d.first + d.step * _count(d.k), True) if d.k <= MOST_ATOMS else None
    return _counts(d) if isinstance(d, Poisson | Geometric | NegativeBinomial) else None


def _count(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64)


def _counts(d: Distribution) -> tuple[Tensor, bool] | None:
    """0, 1, … up to where every member of the batch has less than 10⁻¹⁸ beyond."""
    last = 16
    while last <= MOST_ATOMS:
        if tail_masses(d, float(last)) < REST:
            return _count(last + 1), False
        last *= 2
    return None


def _product(d: "Independent[Distribution]") -> tuple[Tensor, bool] | None:
    """Every combination of the values of the columns."""
    base = _values(d.base_dist)
    if base is None or d.reinterpreted_batch_ndims == 0:
        return base
    return None if d.base_dist.event_shape else _grid(base, d.event_shape)


def _grid(base: tuple[Tensor, bool], shape: torch.Size) -> tuple[Tensor, bool] | None:
    columns, (values, whole) = shape.numel(), base
    if len(values) ** columns > MOST_ATOMS:
        return None
    rows = torch.cartesian_prod(*[values] * columns).reshape(-1, *shape)
    return rows, whole
