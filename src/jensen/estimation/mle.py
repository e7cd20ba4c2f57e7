"""Maximum likelihood of a named family.

    θ̂ = argmax_θ ℓ(θ),   ℓ(θ) = Σ_i w_i log p(x_i; θ)

A likelihood is no probability of θ: ℓ says how probable (or, for densities, how dense) *these rows* are under each θ; over θ
it need not integrate to one, and its units are those of the rows. The error bars say how far θ̂ would scatter if rows were
drawn again: with the information I = -∇²ℓ(θ̂), θ̂ is about N(θ, I⁻¹) for many rows of a regular family that holds the
truth (Fisher 1922, "On the mathematical foundations of theoretical statistics"; van der Vaart 1998, "Asymptotic
statistics", theorem 5.39). Intervals are normal on the scale of logarithms for positive parameters and of logits for
probabilities, and mapped back, so that they stay inside the family.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Distribution

from jensen.errors import InputError, brief, did_you_mean
from jensen.estimation.discrete import (
    BernoulliFamily,
    CategoricalFamily,
    GeometricFamily,
    NegativeBinomialFamily,
    PoissonFamily,
)
from jensen.estimation.family import Family, flat, interval_ends, normal_quantile, within
from jensen.estimation.location import LaplaceFamily, LogNormalFamily, NormalFamily, StudentTFamily, UniformFamily
from jensen.estimation.multivariate import MultivariateNormalFamily
from jensen.estimation.positive import BetaFamily, ExponentialFamily, GammaFamily, VonMisesFamily, WeibullFamily
from jensen.estimation.sample import Rows, Sample, as_sample

FAMILIES: dict[str, type[Family]] = {
    kind.word: kind
    for kind in (
        BernoulliFamily,
        CategoricalFamily,
        PoissonFamily,
        GeometricFamily,
        NegativeBinomialFamily,
        NormalFamily,
        MultivariateNormalFamily,
        LogNormalFamily,
        LaplaceFamily,
        StudentTFamily,
        UniformFamily,
        ExponentialFamily,
        GammaFamily,
        WeibullFamily,
        BetaFamily,
        VonMisesFamily,
    )
}
MOST_POINTS, CELLS_AT_ONCE = 1 << 22, 1 << 20


@dataclass(frozen=True)
class MLE:
    """A family at its maximum likelihood.

    Attributes:
        family: its word.
        distribution: the fitted torch distribution.
        parameters: name → estimate, in torch's words, in the units of the rows.
        log_likelihood: ℓ(θ̂), the sum over rows, in nats.
        n: the number of rows, or the sum of their weights.
        covariance: of the flattened parameters in their order, `(q, q)`, the inverse of the information (singular where
            parameters determine each other, as probabilities do); None where there is none.
        information: "observed", "expected", or None.
        reason: why there are no standard errors, or None.
    """

    family: str
    distribution: Distribution
    parameters: Mapping[str, Tensor]
    log_likelihood: float
    n: float
    covariance: Tensor | None
    information: str | None
    reason: str | None
    sample: Sample = field(repr=False)

    @property
    def standard_errors(self) -> dict[str, Tensor] | None:
        """Name → standard error of the estimate, of its shape; None where there are none (`reason` says why)."""
        return None if self.covariance is None else self._shaped(self.covariance.diagonal().clamp(min=0).sqrt())

    def interval(self, level: float = 0.95) -> dict[str, tuple[Tensor, Tensor]]:
        """Name → the ends of a confidence interval: of such intervals, a share `level` holds the true value in the limit of
        many rows. It is no statement that θ lies in this one with that probability.

        Args:
            level: between 0 and 1.

        Raises:
            InputError: another level, or no standard errors.
        """
        if not 0 < level < 1:
            raise InputError(f"the level of an interval must lie between 0 and 1, ends excluded, got {level}")
        errors = self._covariance().diagonal().clamp(min=0).sqrt()
        at, links, z = flat(self.parameters), self._family().link_of_each(self.parameters), normal_quantile(level)
        ends = [interval_ends(link, a, e, z) for link, a, e in zip(links, at, errors, strict=True)]
        low, high = (self._shaped(torch.stack(part)) for part in zip(*ends, strict=True))
        return {name: (low[name], high[name]) for name in self.parameters}

    def grid(self, name: str, points: int = 101, width: float = 3.0) -> Float64[Tensor, " points"]:
        """Values of a parameter, `width` standard errors to either side of its estimate, on the scale of its intervals."""
        value = self._scalar(name)
        place = list(self.parameters).index(name)
        error = self._covariance().diagonal()[place].sqrt()
        link = self._family().links[name]
        steps = torch.linspace(-width, width, points, dtype=torch.float64)
        return torch.stack([interval_ends(link, value, error, float(step))[1] for step in steps])

    def surface(self, **grids: Tensor) -> Tensor:
        """The log-likelihood ℓ on a grid of one or two parameters, the others held at their estimates.

        Args:
            **grids: name → values `(g,)`, for one or two of the parameters that are single numbers.

        Returns:
            `(g,)` or `(g_1, g_2)`, nats; -inf outside the family.

        Raises:
            InputError: no, more than two, unknown or vector parameters; too many points.
        """
        if not 1 <= len(grids) <= 2:
            raise InputError(f"a surface is over one or two parameters, got {len(grids)}; name one or two")
        for name in grids:
            self._scalar(name)
        axes = [torch.as_tensor(values, dtype=torch.float64).reshape(-1) for values in grids.values()]
        mesh = [part.reshape(-1) for part in torch.meshgrid(*axes, indexing="ij")]
        if len(mesh[0]) > MOST_POINTS:
            raise InputError(f"a grid has at most {MOST_POINTS} points, got {len(mesh[0])}; take fewer")
        at_once = max(1, CELLS_AT_ONCE // len(self.sample.x))
        parts = [
            self._at(dict(zip(grids, block, strict=True)))
            for block in zip(*(m.split(at_once) for m in mesh), strict=True)
        ]
        return torch.cat(parts).reshape([len(axis) for axis in axes])

    def quadratic(self, **grids: Tensor) -> Tensor:
        """The parabola that touches the surface at its top, ℓ(θ̂) - ½ (θ - θ̂)ᵀ I (θ - θ̂), where the standard errors are
        read off: on the same grid as `surface`.
        """
        places = [list(self.parameters).index(name) for name in grids]
        covariance = self._covariance()
        if len(covariance) != len(self.parameters):
            raise InputError(
                f"{self.family!r} has vector parameters and no such picture; take a family of single numbers"
            )
        information = torch.linalg.inv(covariance)[places][:, places]
        axes = [torch.as_tensor(g, dtype=torch.float64) - self.parameters[name] for name, g in grids.items()]
        offset = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        return self.log_likelihood - 0.5 * (offset @ information * offset).sum(-1)

    def _at(self, given: Mapping[str, Tensor]) -> Tensor:
        """ℓ at g values of some parameters, `(g,)`."""
        family, count = self._family(), len(next(iter(given.values())))
        inside = torch.ones(count, dtype=torch.bool)
        for name, values in given.items():
            inside &= within(family.links[name], values)
        both = {**self.parameters, **given}
        safe = {
            name: torch.where(inside, value, self.parameters[name])[:, None] if name in given else value
            for name, value in both.items()
        }
        each = family.log_prob(self.sample.x, safe)
        return torch.where(inside, each.double() @ self.sample.w, -torch.inf)

    def _family(self) -> Family:
        return FAMILIES[self.family]()

    def _covariance(self) -> Tensor:
        if self.covariance is None:
            raise InputError(f"{self.family!r} has no standard errors here: {self.reason}; take the estimate alone")
        return self.covariance

    def _scalar(self, name: str) -> Tensor:
        if name not in self.parameters:
            near = did_you_mean(name, self.parameters)
            raise InputError(f"{self.family!r} has no parameter {name!r}; {near}it has {', '.join(self.parameters)}")
        if self.parameters[name].ndim:
            raise InputError(
                f"parameter {name!r} of {self.family!r} is no single number; pick a family of single numbers"
            )
        return self.parameters[name]

    def _shaped(self, values: Tensor) -> dict[str, Tensor]:
        """A flat vector cut into parameters."""
        sizes = [value.numel() for value in self.parameters.values()]
        pieces = zip(self.parameters.items(), values.split(sizes), strict=True)
        return {name: piece.reshape(value.shape) for (name, value), piece in pieces}


def fit_mle(family: str, x: Rows, weights: Rows | None = None) -> MLE:
    """The member of a family under which the rows are most likely, with the errors of its parameters.

    Args:
        family: a word of `FAMILIES`: bernoulli, categorical, poisson, geometric, negative-binomial, normal,
            multivariate-normal, log-normal, laplace, student-t, uniform, exponential, gamma, weibull, beta, von-mises.
        x: rows `(n,)`, or `(n, d)` for multivariate-normal; finite.
        weights: how often each row counts, `(n,)`, not negative; once each if None. Whole weights are repeated rows.

    Returns:
        The fit.

    Raises:
        InputError: an unknown family, rows outside its support, no maximum for these rows; says which and why.
        FitError: a maximum was not found.

    Example:
        >>> fit = fit_mle("exponential", [1.0, 2.0, 3.0, 2.0])
        >>> float(fit.parameters["rate"]), float(fit.standard_errors["rate"])
        (0.5, 0.25)
    """
    if family not in FAMILIES:
        raise InputError(
            f"unknown family {brief(family)}; {did_you_mean(family, FAMILIES)}known are {', '.join(FAMILIES)}"
        )
    kind = FAMILIES[family]()
    sample = as_sample(x, weights, 2 if family == "multivariate-normal" else 1)
    kind.check(sample)
    found = kind.estimate(sample)
    parameters = {name: value.detach() for name, value in found.parameters.items()}
    reason = found.irregular or _too_few(sample, parameters)
    covariance = None if reason else kind.covariance(sample, parameters)
    if covariance is None and reason is None:
        reason = "the information at the estimate is singular: the rows do not say where the maximum is"
    value = float(sample.w @ kind.log_prob(sample.x, parameters).double())
    return MLE(
        family=family,
        distribution=kind.distribution(parameters),
        parameters=parameters,
        log_likelihood=value,
        n=sample.n,
        covariance=covariance,
        information=None if covariance is None else kind.information,
        reason=reason,
        sample=sample,
    )


def _too_few(sample: Sample, parameters: Mapping[str, Tensor]) -> str | None:
    """A reason where there are no more rows than numbers to estimate."""
    count = len(parameters)
    if len(sample.x) > count:
        return None
    return f"{len(sample.x)} rows are too few for the normal approximation with {count} parameters"
