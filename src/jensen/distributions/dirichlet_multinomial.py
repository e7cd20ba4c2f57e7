"""The Dirichlet-multinomial (Pólya) distribution: counts of n draws from a categorical drawn from a Dirichlet.

    P(x) = n! Γ(A) / Γ(n + A) · ∏_k Γ(x_k + α_k) / (x_k! Γ(α_k)),   A = Σ_k α_k,   Σ_k x_k = n

It is the posterior predictive of n categorical draws under a Dirichlet(α) prior, and the urn of Pólya in which every
ball drawn comes back with one more of its colour. (Johnson, Kotz and Balakrishnan 1997, "Discrete multivariate
distributions", chapter 35.13.)
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, Multinomial, constraints


class DirichletMultinomial(Distribution):
    """Counts of `total_count` draws with probabilities ~ Dirichlet(concentration).

    Args:
        total_count: n, a whole number from 0.
        concentration: α, positive.
        validate_args: check parameters and values, as in torch.

    Example:
        >>> two = DirichletMultinomial(2, torch.ones(2))
        >>> [round(float(two.log_prob(torch.tensor([x, 2 - x])).exp()), 6) for x in (0.0, 1.0, 2.0)]
        [0.333333, 0.333333, 0.333333]
    """

    arg_constraints: ClassVar = {"concentration": constraints.independent(constraints.positive, 1)}

    def __init__(
        self, total_count: int, concentration: Float[Tensor, "*batch k"], validate_args: bool | None = None
    ) -> None:
        self.total_count, self.concentration = total_count, concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Counts whose sum is at most n, as torch's Multinomial has it."""
        return constraints.multinomial(self.total_count)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) of each vector of counts; -∞ where they do not sum to n."""
        if self._validate_args:
            self._validate_sample(value)
        total, n = self.concentration.sum(-1), torch.as_tensor(self.total_count).to(self.concentration)
        whole = torch.lgamma(n + 1) + torch.lgamma(total) - torch.lgamma(n + total)
        each = torch.lgamma(value + self.concentration) - torch.lgamma(value + 1) - torch.lgamma(self.concentration)
        return torch.where(value.sum(-1) == n, whole + each.sum(-1), -torch.inf)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Probabilities from the Dirichlet, then the draws."""
        with torch.no_grad():
            p = Dirichlet(self.concentration).sample(torch.Size(sample_shape))
            return Multinomial(self.total_count, p).sample()

    @property
    def mean(self) -> Tensor:
        """The mean, n α_k / A."""
        return self.total_count * self._share

    @property
    def variance(self) -> Tensor:
        """The variance, n p_k (1 - p_k) (n + A)/(1 + A) with p = α/A."""
        total = self.concentration.sum(-1, keepdim=True)
        return self.total_count * self._share * (1 - self._share) * (self.total_count + total) / (1 + total)

    @property
    def _share(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, keepdim=True)
