"""Families on the positive numbers, the unit interval and the circle: exponential, gamma, Weibull, beta, von Mises.

    exponential   λ̂ = 1/x̄
    gamma         mean = x̄;  log a - ψ(a) = log x̄ - mean log x
    Weibull       by Newton's method; log x has a scale 1/k and a location
    beta          ψ(a) - ψ(a + b) = mean log x,  ψ(b) - ψ(a + b) = mean log(1 - x)
    von Mises     loc = direction of the mean vector;  I_1(κ)/I_0(κ) = its length R

The maximum is unique in each (log-concave in the natural parameters of an exponential family: Barndorff-Nielsen 1978,
"Information and exponential families", theorem 9.13) and exists unless all rows are equal.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Beta, Distribution, Exponential, Gamma, VonMises, Weibull

from jensen.errors import InputError
from jensen.estimation.family import Estimate, Family, Parameters, refuse_constant, refuse_outside
from jensen.estimation.sample import Sample

EULER = 0.5772156649015329


class ExponentialFamily(Family):
    """Waiting times."""

    word: ClassVar[str] = "exponential"
    links: ClassVar = {"rate": "log"}

    def check(self, sample: Sample) -> None:
        """Not negative, not all zero."""
        refuse_outside(self.word, sample.x, sample.x >= 0, "the numbers from 0")
        if float(sample.x.max()) == 0:
            raise InputError(
                "every row is 0: the likelihood of 'exponential' grows without bound with the rate; give others"
            )

    def estimate(self, sample: Sample) -> Estimate:
        """1/mean."""
        return Estimate({"rate": 1 / sample.mean(sample.x)})

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Exponential."""
        return Exponential(parameters["rate"], validate_args=check)

    def parameters(self, phi: Tensor) -> Parameters:
        """The rate of its logarithm."""
        return {"rate": phi[0].exp()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """log λ."""
        return parameters["rate"].log().reshape(1)


class _Positive(Family):
    """Positive rows that are not all the same."""

    def check(self, sample: Sample) -> None:
        """Positive, not all the same."""
        refuse_outside(self.word, sample.x, sample.x > 0, "the positive numbers")
        refuse_constant(self.word, sample.x, "give rows that differ")


class GammaFamily(_Positive):
    """Gamma(concentration, rate); coordinates log mean and log concentration, which are orthogonal."""

    word: ClassVar[str] = "gamma"
    links: ClassVar = {"concentration": "log", "rate": "log"}

    def estimate(self, sample: Sample) -> Estimate:
        """Newton from Thom's approximation, which is within 1.5 %."""
        mean = sample.mean(sample.x)
        gap = -sample.mean((sample.x / mean).log())
        a = (1 + (1 + 4 * gap / 3).sqrt()) / (4 * gap)
        return Estimate(self.climbed(sample, {"concentration": a, "rate": a / mean}))

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Gamma."""
        return Gamma(parameters["concentration"], parameters["rate"], validate_args=check)

    def parameters(self, phi: Tensor) -> Parameters:
        """Of log mean and log a."""
        return {"concentration": phi[1].exp(), "rate": (phi[1] - phi[0]).exp()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """log mean and log a."""
        log_a = parameters["concentration"].log()
        return torch.stack([log_a - parameters["rate"].log(), log_a])


class WeibullFamily(_Positive):
    """Weibull(scale, concentration k)."""

    word: ClassVar[str] = "weibull"
    links: ClassVar = {"scale": "log", "concentration": "log"}

    def estimate(self, sample: Sample) -> Estimate:
        """Newton from the moments of log x: mean log s - γ/k, variance π²/(6k²)."""
        logs = sample.x.log()
        mean = sample.mean(logs)
        k = math.pi / (6 * sample.mean((logs - mean).square())).sqrt()
        return Estimate(self.climbed(sample, {"scale": (mean + EULER / k).exp(), "concentration": k}))

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Weibull."""
        return Weibull(parameters["scale"], parameters["concentration"], validate_args=check)

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """log k - log s + (k - 1) log(x/s) - (x/s)^k; torch computes it through a transformed exponential."""
        k, log_s = parameters["concentration"], parameters["scale"].log()
        z = x.log() - log_s
        return k.log() - log_s + (k - 1) * z - (k * z).exp()

    def parameters(self, phi: Tensor) -> Parameters:
        """Of two logarithms."""
        return {"scale": phi[0].exp(), "concentration": phi[1].exp()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Two logarithms."""
        return torch.stack([parameters["scale"].log(), parameters["concentration"].log()])


class BetaFamily(Family):
    """Beta(a, b); coordinates the logit of the mean and log(a + b)."""

    word: ClassVar[str] = "beta"
    links: ClassVar = {"concentration1": "log", "concentration0": "log"}

    def check(self, sample: Sample) -> None:
        """Between 0 and 1, not all the same."""
        refuse_outside(
            self.word, sample.x, (sample.x > 0) & (sample.x < 1), "the numbers between 0 and 1, ends excluded"
        )
        refuse_constant(self.word, sample.x, "give rows that differ")

    def estimate(self, sample: Sample) -> Estimate:
        """Newton from the moments: variance m (1 - m)/(a + b + 1)."""
        mean = sample.mean(sample.x)
        variance = sample.mean((sample.x - mean).square())
        total = (mean * (1 - mean) / variance - 1).clamp(min=1e-2)
        return Estimate(self.climbed(sample, {"concentration1": mean * total, "concentration0": (1 - mean) * total}))

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Beta."""
        return Beta(parameters["concentration1"], parameters["concentration0"], validate_args=check)

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """(a - 1) log x + (b - 1) log(1 - x) - log B(a, b)."""
        a, b = parameters["concentration1"], parameters["concentration0"]
        constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        return (a - 1) * x.log() + (b - 1) * torch.log1p(-x) + constant

    def parameters(self, phi: Tensor) -> Parameters:
        """Of logit mean and log total."""
        total = phi[1].exp()
        return {"concentration1": total * phi[0].sigmoid(), "concentration0": total * (-phi[0]).sigmoid()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Logit mean and log total."""
        a, b = parameters["concentration1"], parameters["concentration0"]
        return torch.stack([a.log() - b.log(), (a + b).log()])


class VonMisesFamily(Family):
    """Angles in radians."""

    word: ClassVar[str] = "von-mises"
    links: ClassVar = {"loc": "identity", "concentration": "log"}

    def check(self, sample: Sample) -> None:
        """Neither all in one direction nor in directions that cancel."""
        length = 1 - float(self._mean_vector(sample)[0])
        if length < 1e-14:
            raise InputError(
                "every row is the same angle: the likelihood of 'von-mises' grows without bound with the concentration, so "
                "there is no maximum; give rows that differ"
            )
        if length > 1 - 1e-12:
            raise InputError(
                "the directions of the rows cancel: the most likely concentration is 0, the uniform circle, and then no loc "
                "is more likely than another; fit 'uniform'"
            )

    def estimate(self, sample: Sample) -> Estimate:
        """Newton in κ from Banerjee's approximation."""
        length, loc = self._mean_vector(sample)
        kappa = length * (2 - length.square()) / (1 - length.square())
        return Estimate(self.climbed(sample, {"loc": loc, "concentration": kappa}))

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's VonMises, whose own log_prob approximates log I_0 to about 1e-7."""
        return VonMises(parameters["loc"], parameters["concentration"], validate_args=check)

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """κ (cos(x - μ) - 1) - log 2π - log(e^-κ I_0(κ)), with I_0 to double precision."""
        kappa = parameters["concentration"]
        half = torch.sin(0.5 * (x - parameters["loc"]))
        return -2 * kappa * half.square() - math.log(2 * math.pi) - torch.special.i0e(kappa).log()

    def parameters(self, phi: Tensor) -> Parameters:
        """Of loc and log κ."""
        return {"loc": phi[0], "concentration": phi[1].exp()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Loc and log κ."""
        return torch.stack([parameters["loc"], parameters["concentration"].log()])

    @staticmethod
    def _mean_vector(sample: Sample) -> tuple[Tensor, Tensor]:
        """Length and direction."""
        cosine, sine = sample.mean(sample.x.cos()), sample.mean(sample.x.sin())
        return torch.hypot(cosine, sine), torch.atan2(sine, cosine)
