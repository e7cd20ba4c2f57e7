"""What `fit_mle` asks of a family of distributions.

A family has *parameters* θ in the words of torch's distribution, and free *coordinates* φ (logarithms of positive numbers,
logits of probabilities, means rather than rates) in which the log-likelihood is close to a parabola and nothing
can leave the family. Estimates are the same in both; so are standard errors, by the delta method:

    Cov[θ̂] = J I(φ̂)⁻¹ Jᵀ,   J = ∂θ/∂φ,   I(φ) = -∇² Σ_i w_i log p(x_i; φ)

with I the observed information (Efron and Hinkley 1978, "Assessing the accuracy of the maximum likelihood estimator").
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Distribution

from jensen.errors import InputError
from jensen.estimation.newton import derivatives, maximise
from jensen.estimation.sample import Sample

Parameters = dict[str, Tensor]
Link = Literal["identity", "log", "logit"]


@dataclass(frozen=True)
class Estimate:
    """Parameters at the maximum; `irregular` says why they have no standard errors, or is None."""

    parameters: Parameters
    irregular: str | None = None


class Family(ABC):
    """A family of distributions that can be fitted by maximum likelihood.

    Class attributes:
        word: its name.
        links: parameter → the scale on which it is about normal: identity, log or logit.
        information: whether standard errors come from the observed or the expected information.
    """

    word: ClassVar[str]
    links: ClassVar[Mapping[str, Link]]
    information: ClassVar[Literal["observed", "expected"]] = "observed"

    @abstractmethod
    def check(self, sample: Sample) -> None:
        """Refuse rows outside the family's support, and rows whose likelihood has no maximum."""

    @abstractmethod
    def estimate(self, sample: Sample) -> Estimate:
        """The maximum."""

    @abstractmethod
    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """The member with these parameters."""

    @abstractmethod
    def parameters(self, phi: Float64[Tensor, " p"]) -> Parameters:
        """θ of the coordinates φ."""

    @abstractmethod
    def coordinates(self, parameters: Mapping[str, Tensor]) -> Float64[Tensor, " p"]:
        """φ of the parameters θ."""

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """log p(x; θ)."""
        return self.distribution(parameters, check=False).log_prob(x)

    def mean_log_prob(self, sample: Sample, phi: Float64[Tensor, " p"]) -> Tensor:
        """The mean log-likelihood of a row, as a function of the coordinates."""
        return sample.mean(self.log_prob(sample.x, self.parameters(phi)))

    def climbed(self, sample: Sample, start: Mapping[str, Tensor]) -> Parameters:
        """The maximum by Newton's method from a start."""
        phi = maximise(lambda p: self.mean_log_prob(sample, p), self.coordinates(start), f"the family {self.word!r}")
        return self.parameters(phi)

    def link_of_each(self, parameters: Mapping[str, Tensor]) -> list[Link]:
        """The link of each number of the flattened parameters."""
        return [self.links[name] for name, value in parameters.items() for _ in range(value.numel())]

    def covariance(self, sample: Sample, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """Cov[θ̂] of the flattened parameters, from the information; None where that is singular."""
        phi = self.coordinates(parameters)
        _, _, hessian = derivatives(lambda p: self.mean_log_prob(sample, p), phi)
        factor, failed = torch.linalg.cholesky_ex(-sample.n * hessian)
        if int(failed):
            return None
        jacobian = torch.autograd.functional.jacobian(lambda p: flat(self.parameters(p)), phi)
        assert isinstance(jacobian, Tensor)
        return jacobian @ torch.cholesky_solve(jacobian.T, factor)


def flat(parameters: Mapping[str, Tensor]) -> Float64[Tensor, " q"]:
    """The parameters as one vector, in their order."""
    return torch.cat([value.reshape(-1) for value in parameters.values()])


def refuse_constant(family: str, x: Tensor, instead: str) -> None:
    """Refuse rows that are all the same: the density at one point has no bound."""
    if float(x.max()) == float(x.min()):
        raise InputError(
            f"every row is {float(x.max()):g}: the likelihood of {family!r} grows without bound as it narrows around one "
            f"value, so there is no maximum; {instead}"
        )


def refuse_outside(family: str, x: Tensor, inside: Tensor, support: str) -> None:
    """Refuse the first value outside the support, by row."""
    outside = (~inside).nonzero()
    if len(outside):
        row = int(outside[0, 0])
        raise InputError(
            f"row {row} is {float(x[row]):g}, and the support of {family!r} is {support}; remove such rows, or choose "
            "another family"
        )


def is_count(x: Tensor) -> Tensor:
    """Whether values are 0, 1, 2, …"""
    return (x >= 0) & (x == x.round())


def interval_ends(link: Link, at: Tensor, standard_error: Tensor, z: float) -> tuple[Tensor, Tensor]:
    """The ends of a normal interval on the scale of a link, brought back.

    Args:
        link: the scale.
        at: the estimates.
        standard_error: theirs, on the scale of the parameter.
        z: how many standard errors.
    """
    if link == "log":
        wide = torch.exp(z * standard_error / at)
        return at / wide, at * wide
    if link == "logit":
        wide = z * standard_error / (at * (1 - at))
        return torch.sigmoid(at.logit() - wide), torch.sigmoid(at.logit() + wide)
    return at - z * standard_error, at + z * standard_error


def within(link: Link, values: Tensor) -> Tensor:
    """Which values of a parameter with this link are inside the family."""
    if link == "log":
        return values > 0
    return (values > 0) & (values < 1) if link == "logit" else torch.ones_like(values, dtype=torch.bool)


def normal_quantile(level: float) -> float:
    """z with P(|N(0, 1)| ≤ z) = level."""
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
