"""The beta-binomial distribution: successes in n trials whose probability is itself drawn from a beta.

    P(x) = C(n, x) B(a + x, b + n - x) / B(a, b),   x = 0 … n

It is the posterior predictive of Bernoulli trials under a Beta(a, b) prior; a = b = 1, n = 1 is Laplace's rule, and
a = b = 1 gives every x the same probability 1/(n + 1). (Bayes 1763; Gelman et al. 2013, "Bayesian data analysis",
section 2.4 and appendix A.)
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta, Binomial, Distribution, constraints


class BetaBinomial(Distribution):
    """Successes in `total_count` trials with p ~ Beta(concentration1, concentration0).

    Args:
        total_count: n, a whole number from 0, or a tensor of such that broadcasts.
        concentration1: a, positive.
        concentration0: b, positive.
        validate_args: check parameters and values, as in torch.

    Example:
        >>> one = torch.tensor(1.0)
        >>> [round(float(BetaBinomial(3, one, one).log_prob(torch.tensor(x)).exp()), 12) for x in (0.0, 3.0)]
        [0.25, 0.25]
    """

    arg_constraints: ClassVar = {
        "total_count": constraints.nonnegative_integer,
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }
    has_enumerate_support = False

    def __init__(
        self,
        total_count: int | Tensor,
        concentration1: Float[Tensor, "*#batch"],
        concentration0: Float[Tensor, "*#batch"],
        validate_args: bool | None = None,
    ) -> None:
        count = torch.as_tensor(total_count).to(concentration1)
        self.total_count, self.concentration1, self.concentration0 = torch.broadcast_tensors(
            count, concentration1, concentration0
        )
        super().__init__(self.total_count.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """0 … n."""
        return constraints.integer_interval(0, self.total_count)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) at each value."""
        if self._validate_args:
            self._validate_sample(value)
        n, a, b = self.total_count, self.concentration1, self.concentration0
        choices = torch.lgamma(n + 1) - torch.lgamma(value + 1) - torch.lgamma(n - value + 1)
        return choices + log_beta(a + value, b + n - value) - log_beta(a, b)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """A probability from the beta, then the trials."""
        p = Beta(self.concentration1, self.concentration0).sample(torch.Size(sample_shape))
        with torch.no_grad():
            return Binomial(self.total_count.expand(p.shape), p).sample()

    @property
    def mean(self) -> Tensor:
        """The mean, n a/(a + b)."""
        return self.total_count * self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def variance(self) -> Tensor:
        """The variance, n a b (a + b + n) / ((a + b)² (a + b + 1)): wider than the binomial's by the doubt about p."""
        n, a, b = self.total_count, self.concentration1, self.concentration0
        return n * a * b * (a + b + n) / ((a + b).square() * (a + b + 1))


def log_beta(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log B(a, b) = log Γ(a) + log Γ(b) - log Γ(a + b)."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
