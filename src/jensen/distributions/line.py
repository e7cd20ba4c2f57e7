"""A law on the line by its distribution function F, its survival function S = 1 - F, and both of their inverses.

Two tails are kept because one float cannot: F(x) is 1 from some nine standard deviations on, where S(x) still tells
x from x + 1. Every inverse is the generalised one (`distributions.inverse`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from jensen.distributions.atoms import Atoms, atoms_of, is_discrete
from jensen.distributions.density import innermost, log_masses
from jensen.distributions.families import frozen
from jensen.distributions.inverse import generalised_inverse, upper_inverse
from jensen.distributions.precision import draw, in_double
from jensen.errors import InputError
from jensen.noise import Noise


class Law(ABC):
    """A law on the line.

    Attributes:
        low: the lower end of the support.
        high: its upper end.
        continuous: whether F has no jump, so that F(X) is uniform.
    """

    low: float
    high: float
    continuous: bool

    @abstractmethod
    def cdf(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """F(x) = P(X ≤ x)."""

    @abstractmethod
    def survival(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """S(x) = P(X > x)."""

    def quantile(self, u: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """F⁻(u) = inf{x : F(x) ≥ u}."""
        return generalised_inverse(self.cdf, u, low=self.low, high=self.high)

    def upper(self, v: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """inf{x : S(x) ≤ v}, which is F⁻(1 - v)."""
        return upper_inverse(self.survival, v, low=self.low, high=self.high)


class Finite(Law):
    """Masses on finitely many values; the law of a sample if all weigh the same.

    Args:
        values: `(n,)`.
        weights: `(n,)`, not negative; None for equal ones. They are scaled to sum to one.

    Example:
        >>> Finite(torch.tensor([3.0, 1.0, 1.0])).quantile(torch.tensor([0.5, 0.9])).tolist()
        [1.0, 3.0]
    """

    continuous = False

    def __init__(self, values: Float[Tensor, " n"], weights: Float[Tensor, " n"] | None = None) -> None:
        weights = torch.ones_like(values) if weights is None else weights
        keep = weights > 0
        values, order = values[keep].double().sort()
        self.values, self.weights = values, (weights[keep].double() / weights.double().sum())[order]
        self._below = self.weights.cumsum(0)
        self._above = torch.cat([self.weights.flip(0).cumsum(0).flip(0)[1:], torch.zeros(1, dtype=torch.float64)])
        self._below[-1] = 1.0
        self.low, self.high = float(values[0]), float(values[-1])

    def cdf(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """The mass of the values ≤ x."""
        return self._at(x, self._below, 0.0)

    def survival(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """The mass of the values > x."""
        return self._at(x, self._above, 1.0)

    def _at(self, x: Tensor, sums: Tensor, before: float) -> Tensor:
        count = torch.searchsorted(self.values, x.double().contiguous(), right=True)
        return torch.where(count > 0, sums[(count - 1).clamp(min=0)], before)

    def quantile(self, u: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """The first value with so much mass up to it."""
        return self.values[torch.searchsorted(self._below, u.double().contiguous()).clamp(max=len(self.values) - 1)]

    def upper(self, v: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """The first value with so little mass beyond it."""
        return self.values[torch.searchsorted(-self._above, -v.double().contiguous())]


class Named(Law):
    """A continuous law of `families`, or a batch of them; then functions broadcast against the batch.

    Its inverses too are found by bisection: scipy's own stop short of full accuracy, or fail, at extreme probabilities of
    some families.
    """

    continuous = True

    def __init__(self, distribution: Distribution) -> None:
        law = frozen(distribution)
        assert law is not None
        self._law: Any = law
        low, high = self._law.support()
        self.low, self.high = float(low.min()), float(high.max())

    def cdf(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """F(x)."""
        return self._tensor(self._law.cdf(x.numpy()))

    def survival(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """S(x)."""
        return self._tensor(self._law.sf(x.numpy()))

    def _tensor(self, value: object) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64)


class Computed(Law):
    """A continuous distribution of torch by its own `cdf`; its upper tail ends where 1 - F is rounded to 0."""

    continuous = True

    def __init__(self, distribution: Distribution) -> None:
        self._law = distribution
        self.low, self.high = ends(distribution)

    def cdf(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """F(x), 0 and 1 off the support."""
        low, high = (end if math.isfinite(end) else math.copysign(1e300, end) for end in (self.low, self.high))
        inside = x.double().clamp(low, high)
        value = _cdf(self._law, inside).double()
        return torch.where(x < self.low, 0.0, torch.where(x >= self.high, 1.0, value))

    def survival(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """1 - F(x)."""
        return 1 - self.cdf(x)


class Blend(Law):
    """Σ w_k F_k over a batch of components of one family."""

    def __init__(self, weights: Float[Tensor, " k"], components: Law) -> None:
        self.weights, self.components = weights.double(), components
        self.low, self.high, self.continuous = components.low, components.high, components.continuous

    def cdf(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """Σ w_k F_k(x)."""
        return (self.components.cdf(x[..., None]) * self.weights).sum(-1)

    def survival(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """Σ w_k S_k(x)."""
        return (self.components.survival(x[..., None]) * self.weights).sum(-1)


class Mixed(Law):
    """Σ w_k F_k over laws of any kinds, such as a mass at 0 beside a density.

    Example:
        >>> wet = Mixed([0.4, 0.6], [Finite(torch.zeros(1)), law_of(torch.distributions.Exponential(1.0))])
        >>> wet.quantile(torch.tensor([0.2, 0.3])).tolist()
        [0.0, 0.0]
    """

    def __init__(self, weights: Sequence[float], laws: Sequence[Law]) -> None:
        if len(weights) != len(laws) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-9:
            raise InputError(
                f"weights must be one a law, not negative and sum to 1, not {list(weights)} for {len(laws)} laws; "
                "divide them by their sum"
            )
        self.weights, self.laws = [float(w) for w in weights], list(laws)
        self.low, self.high = min(law.low for law in laws), max(law.high for law in laws)
        self.continuous = all(law.continuous for law in laws)

    def cdf(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """Σ w_k F_k(x)."""
        return self._sum([law.cdf(x) for law in self.laws])

    def survival(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*out"]:
        """Σ w_k S_k(x)."""
        return self._sum([law.survival(x) for law in self.laws])

    def _sum(self, values: list[Tensor]) -> Tensor:
        return torch.stack([w * value for w, value in zip(self.weights, values, strict=True)]).sum(0)


def law_of(distribution: Distribution) -> Law:
    """The law on the line of a distribution of torch with batch_shape () and one dimension.

    Raises:
        InputError: if it has more dimensions, or no distribution function that is known here.

    Example:
        >>> float(law_of(Normal(0.0, 1.0)).upper(torch.tensor(1e-20, dtype=torch.float64))) > 9
        True
    """
    if distribution.batch_shape or distribution.event_shape.numel() != 1:
        raise InputError(
            f"a law on the line has batch_shape () and one dimension, not batch_shape {tuple(distribution.batch_shape)} "
            f"and event_shape {tuple(distribution.event_shape)}; take one column of one row"
        )
    atoms = atoms_of(distribution)
    if atoms is not None:
        return _finite(atoms)
    return _continuous(in_double(distribution))


def _finite(atoms: Atoms) -> Law:
    return Finite(atoms.values.flatten(), atoms.log_mass.exp())


def _continuous(d: Distribution) -> Law:
    if isinstance(d, MixtureSameFamily):
        return Blend(log_masses(d.mixture_distribution).exp(), _continuous(d.component_distribution))
    if isinstance(d, MultivariateNormal):
        d = Normal(d.loc[..., 0], d.covariance_matrix[..., 0, 0].sqrt())
    if is_discrete(d):
        raise InputError(
            f"{type(d).__name__} has too many values to list (at most 65,536); use a sample of it: Finite(values)"
        )
    if frozen(d) is not None:
        return Named(d)
    try:
        _cdf(d, draw(d, 1, Noise(0, "try")).flatten()[:1])
    except NotImplementedError:
        raise InputError(
            f"{type(d).__name__} has no distribution function here; write a jensen.distributions.line.Law with its "
            "cdf, or use a sample of it: Finite(values)"
        ) from None
    return Computed(d)


def _cdf(d: Distribution, x: Tensor) -> Tensor:
    return d.base_dist.cdf(x[..., None])[..., 0] if isinstance(d, Independent) else d.cdf(x)


def ends(distribution: Distribution) -> tuple[float, float]:
    """The ends of the support of a law on the line, as far as its constraint tells."""
    support = innermost(distribution)
    low, high = getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)
    return float(torch.as_tensor(low).min()), float(torch.as_tensor(high).max())
