"""Families with a location and a scale: normal, log-normal, Laplace, Student-t, uniform.

    normal       μ̂ = x̄, σ̂² = Σ (x_i - x̄)²/n (over n: the maximum, not the unbiased estimate)
    log-normal   the same of log x
    Laplace      μ̂ = a median (the middle of the medians), b̂ = mean |x_i - μ̂|
    uniform      from the smallest row to the largest
    Student-t    by Newton's method

Laplace's log-likelihood has corners in μ, so its observed information says nothing; its estimates are still normal in
the limit, with the *expected* information n/b² for both parameters (van der Vaart 1998, "Asymptotic statistics", example
7.8). The uniform's ends are not regular at all: they err by 1/n, not 1/√n. The likelihood of a Student-t with free ν is
unbounded as ν → 0 around any single row; what is found is the best maximum with a top, as everywhere, and if that is no
better than the normal (ν = ∞) it is refused.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Laplace,
    LogNormal,
    Normal,
    StudentT,
    Uniform,
)

from jensen.errors import FitError, InputError
from jensen.estimation.family import Estimate, Family, Parameters, flat, refuse_constant, refuse_outside
from jensen.estimation.sample import Sample

STARTS = (1.0, 4.0, 30.0)
LEAST_DF, MOST_DF = 1e-2, 1e6


class _LocationScale(Family):
    """Parameters loc and scale; coordinates loc and log scale."""

    links: ClassVar = {"loc": "identity", "scale": "log"}

    def parameters(self, phi: Tensor) -> Parameters:
        """Of loc and log scale."""
        return {"loc": phi[0], "scale": phi[1].exp()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Loc and log scale."""
        return torch.stack([parameters["loc"], parameters["scale"].log()])


class NormalFamily(_LocationScale):
    """N(loc, scale²)."""

    word = "normal"

    def check(self, sample: Sample) -> None:
        """Not all the same."""
        refuse_constant(self.word, sample.x, "give rows that differ")

    def estimate(self, sample: Sample) -> Estimate:
        """Mean and root mean square deviation."""
        loc, scale = _mean_and_scale(sample, sample.x)
        return Estimate({"loc": loc, "scale": scale})

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Normal."""
        return Normal(parameters["loc"], parameters["scale"], validate_args=check)


class LogNormalFamily(_LocationScale):
    """exp N(loc, scale²)."""

    word = "log-normal"

    def check(self, sample: Sample) -> None:
        """Positive, not all the same."""
        refuse_outside(self.word, sample.x, sample.x > 0, "the positive numbers")
        refuse_constant(self.word, sample.x, "give rows that differ")

    def estimate(self, sample: Sample) -> Estimate:
        """As a normal of the logarithms."""
        loc, scale = _mean_and_scale(sample, sample.x.log())
        return Estimate({"loc": loc, "scale": scale})

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's LogNormal."""
        return LogNormal(parameters["loc"], parameters["scale"], validate_args=check)


class LaplaceFamily(_LocationScale):
    """exp(-|x - loc|/scale)/(2 scale)."""

    word, information = "laplace", "expected"

    def check(self, sample: Sample) -> None:
        """Not all the same."""
        refuse_constant(self.word, sample.x, "give rows that differ")

    def estimate(self, sample: Sample) -> Estimate:
        """Median and mean absolute deviation from it."""
        loc = weighted_median(sample)
        return Estimate({"loc": loc, "scale": sample.mean((sample.x - loc).abs())})

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Laplace."""
        return Laplace(parameters["loc"], parameters["scale"], validate_args=check)

    def covariance(self, sample: Sample, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """b²/n for both, from the expected information."""
        return torch.eye(2, dtype=torch.float64) * parameters["scale"].square() / sample.n


class UniformFamily(Family):
    """U[low, high)."""

    word: ClassVar[str] = "uniform"
    links: ClassVar = {"low": "identity", "high": "identity"}

    def check(self, sample: Sample) -> None:
        """Not all the same."""
        refuse_constant(self.word, sample.x, "give rows that differ")

    def estimate(self, sample: Sample) -> Estimate:
        """The smallest row, and the next number above the largest: torch's interval is open on the right."""
        low, high = sample.x.min(), sample.x.max()
        above = torch.nextafter(high, torch.full_like(high, torch.inf))
        return Estimate(
            {"low": low, "high": above},
            "the ends of a uniform err by about 1/n, not by 1/√n: the log-likelihood has a slope there and no top",
        )

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Uniform."""
        return Uniform(parameters["low"], parameters["high"], validate_args=check)

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """-log(high - low) inside, -∞ outside and where the ends are in the wrong order."""
        low, high = parameters["low"], parameters["high"]
        return torch.where((low <= x) & (x < high), -(high - low).log(), -torch.inf)

    def parameters(self, phi: Tensor) -> Parameters:
        """The two ends."""
        return {"low": phi[0], "high": phi[1]}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The two ends."""
        return flat(parameters)


class StudentTFamily(Family):
    """loc + scale·t_df."""

    word: ClassVar[str] = "student-t"
    links: ClassVar = {"df": "log", "loc": "identity", "scale": "log"}

    def check(self, sample: Sample) -> None:
        """Not all the same."""
        refuse_constant(self.word, sample.x, "give rows that differ")

    def estimate(self, sample: Sample) -> Estimate:
        """The best of several starts, in standardised units, if it beats the normal."""
        loc, scale = _mean_and_scale(sample, sample.x)
        inner = Sample((sample.x - loc) / scale, sample.w)
        found = [self._from(inner, df) for df in STARTS]
        values = [-torch.inf if p is None else float(inner.mean(self.log_prob(inner.x, p))) for p in found]
        best = found[max(range(len(found)), key=values.__getitem__)]
        normal = float(inner.mean(Normal(0.0, 1.0).log_prob(inner.x)))
        if best is None or max(values) <= normal:
            raise InputError(
                "no Student-t with finite df is more likely than a normal: the tails of the rows are no heavier than a "
                "normal's; fit 'normal'"
            )
        return Estimate({"df": best["df"], "loc": loc + scale * best["loc"], "scale": scale * best["scale"]})

    def _from(self, sample: Sample, df: float) -> Parameters | None:
        spread = sample.x.abs().median().clamp(min=1e-3)
        start = {"df": torch.tensor(df, dtype=torch.float64), "loc": weighted_median(sample), "scale": spread}
        try:
            found = self.climbed(sample, start)
        except FitError:
            return None
        return found if float(found["df"]) > LEAST_DF else None

    def mean_log_prob(self, sample: Sample, phi: Tensor) -> Tensor:
        """As everywhere; a climb that goes on beyond any df is given up."""
        if float(phi[0].detach()) > math.log(MOST_DF):
            raise FitError(f"the likelihood rises beyond df = {MOST_DF:g}")
        return super().mean_log_prob(sample, phi)

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's StudentT."""
        return StudentT(parameters["df"], parameters["loc"], parameters["scale"], validate_args=check)

    def parameters(self, phi: Tensor) -> Parameters:
        """Of log df, loc and log scale."""
        return {"df": phi[0].exp(), "loc": phi[1], "scale": phi[2].exp()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """log df, loc and log scale."""
        return torch.stack([parameters["df"].log(), parameters["loc"], parameters["scale"].log()])


def weighted_median(sample: Sample) -> Tensor:
    """The middle of all values with at most half the weight on either side."""
    order = sample.x.argsort()
    x, below = sample.x[order], sample.w[order].cumsum(0)
    half = 0.5 * float(below[-1])
    first = int(torch.searchsorted(below, torch.tensor(half * (1 - 1e-12), dtype=below.dtype)))
    last = int(torch.searchsorted(below, torch.tensor(half * (1 + 1e-12), dtype=below.dtype), right=True))
    return 0.5 * (x[first] + x[min(last, len(x) - 1)])


def _mean_and_scale(sample: Sample, values: Tensor) -> tuple[Tensor, Tensor]:
    mean = sample.mean(values)
    return mean, sample.mean((values - mean).square()).sqrt()
