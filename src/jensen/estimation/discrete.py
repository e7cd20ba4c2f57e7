"""Families on whole numbers: Bernoulli, categorical, Poisson, geometric, negative binomial.

    Bernoulli            p̂ = x̄
    categorical          p̂_k = n_k/n
    Poisson              λ̂ = x̄
    geometric            p̂ = 1/(1 + x̄), x counts failures before the first success
    negative binomial    mean m̂ = x̄; the number of successes r by Newton. A maximum exists exactly where the variance (over n)
                         is above the mean, and is then unique; else the likelihood rises towards the Poisson's, r = ∞
                         (Levin and Reeds 1977, "Compound multinomial likelihood functions are unimodal").

Estimates on the boundary, p̂ = 0 or 1 or λ̂ = 0, are maxima and have no standard errors: there the log-likelihood has a
slope, not a top.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Geometric, NegativeBinomial, Poisson

from jensen.errors import InputError
from jensen.estimation.family import Estimate, Family, Parameters, is_count, refuse_outside
from jensen.estimation.sample import Sample

MOST_LEVELS = 1 << 16
BOUNDARY = "the estimate {0} lies on the boundary of the family, where the log-likelihood has a slope and no top"


class BernoulliFamily(Family):
    """Zeros and ones."""

    word, links = "bernoulli", {"probs": "logit"}

    def check(self, sample: Sample) -> None:
        """0 or 1."""
        refuse_outside(self.word, sample.x, (sample.x == 0) | (sample.x == 1), "0 and 1")

    def estimate(self, sample: Sample) -> Estimate:
        """The share of ones."""
        p = sample.mean(sample.x)
        return Estimate({"probs": p}, BOUNDARY.format(f"{float(p):g}") if float(p) in (0.0, 1.0) else None)

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Bernoulli."""
        return Bernoulli(probs=parameters["probs"], validate_args=check)

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """x log p + (1 - x) log(1 - p), exact at p = 0 and 1, where torch rounds p away from the ends."""
        p = parameters["probs"]
        return torch.xlogy(x, p) + torch.special.xlog1py(1 - x, -p)

    def parameters(self, phi: Tensor) -> Parameters:
        """p of its logit."""
        return {"probs": phi[0].sigmoid()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The logit."""
        return parameters["probs"].logit().reshape(1)


class CategoricalFamily(Family):
    """Codes 0 … K - 1, K - 1 the largest that occurs."""

    word, links = "categorical", {"probs": "logit"}

    def check(self, sample: Sample) -> None:
        """Whole numbers, not absurdly many."""
        refuse_outside(self.word, sample.x, is_count(sample.x), "the whole numbers 0, 1, 2, …")
        if float(sample.x.max()) >= MOST_LEVELS:
            raise InputError(
                f"a code is {float(sample.x.max()):g}, and there may be at most {MOST_LEVELS} categories; number them from 0"
            )

    def estimate(self, sample: Sample) -> Estimate:
        """Shares."""
        counts = torch.bincount(sample.x.long(), sample.w)
        never = (counts == 0).nonzero().flatten().tolist()
        if never or len(counts) == 1:
            what = f"p_{never[0]} = 0" if never else "p_0 = 1"
            return Estimate({"probs": counts / counts.sum()}, BOUNDARY.format(what))
        return Estimate({"probs": counts / counts.sum()})

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Categorical."""
        return Categorical(probs=parameters["probs"], validate_args=check)

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """log p_x, exact where p_x = 0, which torch rounds away."""
        return parameters["probs"].log()[x.long()]

    def parameters(self, phi: Tensor) -> Parameters:
        """Probabilities of K - 1 log-ratios to the last one."""
        return {"probs": torch.cat([phi, phi.new_zeros(1)]).softmax(0)}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """log p_k - log p_{K-1}."""
        logs = parameters["probs"].log()
        return logs[:-1] - logs[-1]

    def covariance(self, sample: Sample, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """(diag p - p pᵀ)/n, what the observed information gives."""
        p = parameters["probs"]
        return (p.diag() - p[:, None] * p) / sample.n if len(p) <= 2048 else None


class PoissonFamily(Family):
    """Counts."""

    word, links = "poisson", {"rate": "log"}

    def check(self, sample: Sample) -> None:
        """Whole numbers from 0."""
        refuse_outside(self.word, sample.x, is_count(sample.x), "the whole numbers 0, 1, 2, …")

    def estimate(self, sample: Sample) -> Estimate:
        """The mean."""
        rate = sample.mean(sample.x)
        return Estimate({"rate": rate}, BOUNDARY.format("0") if float(rate) == 0 else None)

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Poisson."""
        return Poisson(parameters["rate"], validate_args=check)

    def parameters(self, phi: Tensor) -> Parameters:
        """The rate of its logarithm."""
        return {"rate": phi[0].exp()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """log λ."""
        return parameters["rate"].log().reshape(1)


class GeometricFamily(Family):
    """Failures before the first success."""

    word, links = "geometric", {"probs": "logit"}

    def check(self, sample: Sample) -> None:
        """Whole numbers from 0."""
        refuse_outside(self.word, sample.x, is_count(sample.x), "the whole numbers 0, 1, 2, …")

    def estimate(self, sample: Sample) -> Estimate:
        """1/(1 + mean)."""
        p = 1 / (1 + sample.mean(sample.x))
        return Estimate({"probs": p}, BOUNDARY.format("1") if float(p) == 1 else None)

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's Geometric."""
        return Geometric(probs=parameters["probs"], validate_args=check)

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """x log(1 - p) + log p, exact at p = 1."""
        p = parameters["probs"]
        return torch.special.xlog1py(x, -p) + p.log()

    def parameters(self, phi: Tensor) -> Parameters:
        """p of its logit."""
        return {"probs": phi[0].sigmoid()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The logit."""
        return parameters["probs"].logit().reshape(1)


class NegativeBinomialFamily(Family):
    """Counts that vary more than a Poisson's; in torch's words the mean is total_count·probs/(1 - probs)."""

    word: ClassVar[str] = "negative-binomial"
    links: ClassVar = {"total_count": "log", "probs": "logit"}

    def check(self, sample: Sample) -> None:
        """Whole numbers whose variance is above their mean."""
        refuse_outside(self.word, sample.x, is_count(sample.x), "the whole numbers 0, 1, 2, …")
        mean, variance = _moments(sample)
        if variance <= mean:
            raise InputError(
                f"the variance of the rows, {variance:g}, is not above their mean, {mean:g}: the likelihood of "
                f"{self.word!r} then rises towards total_count = ∞, which is a Poisson; fit 'poisson'"
            )

    def estimate(self, sample: Sample) -> Estimate:
        """By Newton's method from the moments: variance = m + m²/r."""
        mean, variance = _moments(sample)
        r = torch.tensor(mean**2 / (variance - mean), dtype=torch.float64)
        return Estimate(self.climbed(sample, {"total_count": r, "probs": mean / (mean + r)}))

    def distribution(self, parameters: Mapping[str, Tensor], *, check: bool = True) -> Distribution:
        """Torch's NegativeBinomial."""
        return NegativeBinomial(parameters["total_count"], probs=parameters["probs"], validate_args=check)

    def log_prob(self, x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """log Γ(x + r) - log Γ(r) - log x! + r log(1 - p) + x log p."""
        r, p = parameters["total_count"], parameters["probs"]
        choices = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        return choices + r * torch.log1p(-p) + torch.xlogy(x, p)

    def parameters(self, phi: Tensor) -> Parameters:
        """Of log mean and log r, which are orthogonal."""
        return {"total_count": phi[1].exp(), "probs": (phi[0] - phi[1]).sigmoid()}

    def coordinates(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """log mean and log r; the mean is r p/(1 - p)."""
        log_r = parameters["total_count"].log()
        return torch.stack([log_r + parameters["probs"].logit(), log_r])


def _moments(sample: Sample) -> tuple[float, float]:
    mean = sample.mean(sample.x)
    return float(mean), float(sample.mean((sample.x - mean).square()))
