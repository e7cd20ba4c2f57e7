"""Conjugate priors of counts and waiting times.

    prior              likelihood            update                       predictive
    Beta(a, b)         Binomial(t, p)        a + Σx, b + Σ(t - x)         beta-binomial
    Dirichlet(α)       Categorical(p)        α_k + n_k                    Categorical(α/Σα); counts: Dirichlet-multinomial
    Gamma(a, rate b)   Poisson(λ)            a + Σx, b + n                negative binomial
    Gamma(a, rate b)   Exponential(λ)        a + n, b + Σx                Lomax

Beta(1, 1) with t = 1 predicts (ones + 1)/(n + 2): Laplace's rule, and with Dirichlet(1, …, 1) the add-one histograms of the
control `independent`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Binomial,
    Categorical,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    NegativeBinomial,
    Poisson,
)

from jensen.distributions.beta_binomial import BetaBinomial
from jensen.distributions.dirichlet_multinomial import DirichletMultinomial
from jensen.distributions.lomax import Lomax
from jensen.errors import InputError, brief
from jensen.estimation.bayes import Conjugate, counts_within, number, require_positive
from jensen.estimation.sample import Rows, as_sample


@dataclass(frozen=True)
class BetaBernoulli(Conjugate):
    """p ~ Beta(a, b); a row is the number of successes in `trials` trials.

    Example:
        >>> posterior = BetaBernoulli(1.0, 1.0).update([1.0, 1.0, 0.0])
        >>> posterior.a, posterior.b, round(float(posterior.predictive().mean), 12)
        (3.0, 2.0, 0.6)
    """

    a: float = 1.0
    b: float = 1.0
    trials: int = 1

    def __post_init__(self) -> None:
        require_positive(a=self.a, b=self.b, trials=self.trials)

    def update(self, x: Rows) -> "BetaBernoulli":
        """Successes to a, failures to b."""
        rows = counts_within(x, self.trials, f"successes in {self.trials} trials").x
        return BetaBernoulli(self.a + float(rows.sum()), self.b + float((self.trials - rows).sum()), self.trials)

    def predictive(self) -> BetaBinomial:
        """Successes in the next `trials` trials."""
        return BetaBinomial(self.trials, number(self.a), number(self.b))

    def likelihood(self, *theta: Tensor) -> Distribution:
        """Binomial(trials, p)."""
        return Binomial(self.trials, theta[0])

    def log_prob(self, *theta: Tensor) -> Tensor:
        """The beta's."""
        return Beta(number(self.a), number(self.b)).log_prob(theta[0])

    def centre(self) -> tuple[Tensor, ...]:
        """The mean."""
        return (number(self.a / (self.a + self.b)),)


@dataclass(frozen=True, eq=False)
class DirichletCategorical(Conjugate):
    """p ~ Dirichlet(concentration); a row is a code 0 … K - 1.

    Example:
        >>> posterior = DirichletCategorical(torch.ones(3)).update([0.0, 0.0, 2.0])
        >>> posterior.predictive().probs.tolist() == [3 / 6, 1 / 6, 2 / 6]
        True
    """

    concentration: Tensor

    def __post_init__(self) -> None:
        alpha = self.concentration
        if alpha.ndim != 1 or len(alpha) < 2 or not bool(((alpha > 0) & torch.isfinite(alpha)).all()):
            raise InputError(f"concentration must be at least two positive numbers, got {brief(alpha.tolist())}")
        object.__setattr__(self, "concentration", alpha.double())

    def update(self, x: Rows) -> "DirichletCategorical":
        """Counts to α."""
        k = len(self.concentration)
        rows = counts_within(x, k - 1, f"codes of {k} categories").x.long()
        return DirichletCategorical(self.concentration + torch.bincount(rows, minlength=k))

    def predictive(self) -> Categorical:
        """The next code."""
        return Categorical(probs=self.concentration / self.concentration.sum())

    def counts(self, n: int) -> DirichletMultinomial:
        """How often each category comes up in the next n rows."""
        return DirichletMultinomial(n, self.concentration)

    def likelihood(self, *theta: Tensor) -> Distribution:
        """Categorical(p)."""
        return Categorical(probs=theta[0])

    def log_prob(self, *theta: Tensor) -> Tensor:
        """The Dirichlet's."""
        return Dirichlet(self.concentration).log_prob(theta[0])

    def centre(self) -> tuple[Tensor, ...]:
        """The mean."""
        return (self.concentration / self.concentration.sum(),)


@dataclass(frozen=True)
class _GammaRate(Conjugate):
    """λ ~ Gamma(a, rate b)."""

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        require_positive(a=self.a, b=self.b)

    def log_prob(self, *theta: Tensor) -> Tensor:
        """The gamma's."""
        return Gamma(number(self.a), number(self.b)).log_prob(theta[0])

    def centre(self) -> tuple[Tensor, ...]:
        """The mean."""
        return (number(self.a / self.b),)


@dataclass(frozen=True)
class GammaPoisson(_GammaRate):
    """λ ~ Gamma(a, rate b); a row is a Poisson count.

    Example:
        >>> posterior = GammaPoisson(2.0, 1.0).update([3.0, 5.0])
        >>> posterior.a, posterior.b, round(float(posterior.predictive().mean), 12)
        (10.0, 3.0, 3.333333333333)
    """

    def update(self, x: Rows) -> "GammaPoisson":
        """Their sum to a, their number to b."""
        rows = counts_within(x, None, "Poisson counts").x
        return GammaPoisson(self.a + float(rows.sum()), self.b + len(rows))

    def predictive(self) -> Distribution:
        """NegativeBinomial(a, 1/(b + 1))."""
        return NegativeBinomial(number(self.a), probs=number(1 / (self.b + 1)))

    def likelihood(self, *theta: Tensor) -> Distribution:
        """Poisson(λ)."""
        return Poisson(theta[0])


@dataclass(frozen=True)
class GammaExponential(_GammaRate):
    """λ ~ Gamma(a, rate b); a row is an exponential waiting time.

    Example:
        >>> GammaExponential(3.0, 4.0).update([1.0, 3.0])
        GammaExponential(a=5.0, b=8.0)
    """

    def update(self, x: Rows) -> "GammaExponential":
        """Their number to a, their sum to b."""
        rows = as_sample(x).x
        if float(rows.min()) < 0:
            raise InputError(f"waiting times are not negative, got {float(rows.min()):g}")
        return GammaExponential(self.a + len(rows), self.b + float(rows.sum()))

    def predictive(self) -> Distribution:
        """Lomax(a, b)."""
        return Lomax(number(self.a), number(self.b))

    def likelihood(self, *theta: Tensor) -> Distribution:
        """Exponential(λ)."""
        return Exponential(theta[0])
