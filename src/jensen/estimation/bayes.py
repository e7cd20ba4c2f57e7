"""Bayes' rule for the parameters of a family, where it is a formula.

    p(θ | x) = p(x | θ) p(θ) / p(x)          posterior = likelihood × prior / evidence
    p(x* | x) = ∫ p(x* | θ) p(θ | x) dθ      posterior predictive
    p(x_1 … x_n) = ∏_i p(x_i | x_1 … x_{i-1})    evidence, by the chain rule

A prior is *conjugate* to a likelihood if the posterior is of the prior's family; an update then adds the rows' sufficient
statistics to its numbers, in any order and grouping. The evidence is Bayes' rule read backwards: at *every* θ,
p(x) = p(x | θ) p(θ) / p(θ | x) (Besag 1989, "A candidate's formula"); it is evaluated in the middle of the posterior. (Raiffa
and Schlaifer 1961, "Applied statistical decision theory"; Gelman et al. 2013, "Bayesian data analysis", chapters 2 and 3.)
"""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.errors import InputError, brief
from jensen.estimation.sample import Rows, Sample, as_sample


class Conjugate(ABC):
    """p(θ), a prior or a posterior, beside the likelihood it is conjugate to. Immutable: an update is another one."""

    @abstractmethod
    def update(self, x: Rows) -> Self:
        """The posterior after rows `(n,)`, or `(n, d)` for vectors.

        Raises:
            InputError: rows outside the likelihood's support.
        """

    @abstractmethod
    def predictive(self) -> Distribution:
        """p(x*) = ∫ p(x* | θ) p(θ) dθ of one row."""

    @abstractmethod
    def likelihood(self, *theta: Tensor) -> Distribution:
        """p(x | θ)."""

    @abstractmethod
    def log_prob(self, *theta: Tensor) -> Tensor:
        """log p(θ)."""

    @abstractmethod
    def centre(self) -> tuple[Tensor, ...]:
        """A θ in the middle of p(θ)."""

    def log_evidence(self, x: Rows) -> float:
        """log p(x_1 … x_n) of the rows in their order, nats: log p(x | θ) + log p(θ) - log p(θ | x) at one θ."""
        rows, posterior = as_sample(x, axes=self.axes).x, self.update(x)
        theta = posterior.centre()
        likelihood = self.likelihood(*theta).log_prob(rows).sum()
        return float(likelihood + self.log_prob(*theta) - posterior.log_prob(*theta))

    @property
    def axes(self) -> int:
        """1 where rows are numbers, 2 where they are vectors."""
        return 1


def number(value: float) -> Tensor:
    """A float64 tensor of one number."""
    return torch.tensor(value, dtype=torch.float64)


def require_positive(**numbers: float) -> None:
    """Refuse hyperparameters that are not positive and finite."""
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{name} must be positive and finite, got {brief(value)}")


def counts_within(x: Rows, most: int | None, what: str) -> Sample:
    """Rows that are whole numbers 0 … most.

    Raises:
        InputError: one of them is not; names it.
    """
    sample = as_sample(x)
    fine = (sample.x >= 0) & (sample.x == sample.x.round())
    if most is not None:
        fine &= sample.x <= most
    outside = (~fine).nonzero()
    if len(outside):
        row = int(outside[0])
        raise InputError(
            f"row {row} is {float(sample.x[row]):g}, and {what} are whole numbers from 0{'' if most is None else f' to {most}'}"
        )
    return sample
