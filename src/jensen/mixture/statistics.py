"""The sufficient statistics of an E-step: one object that adds.

With responsibilities r_ik, row weights w_i, x̂ the row with its missing cells replaced by their conditional mean in
component k, C its conditional covariance (zero for complete rows), and a centre c_k:

    count_k = Σ w_i r_ik,   first_k = Σ w_i r_ik (x̂ - c_k),   second_k = Σ w_i r_ik [(x̂ - c_k)(x̂ - c_k)ᵀ + C].

Batches, and processes, sum them. Sums are float64; the centre keeps the differences that follow from cancelling:

    m_k = c_k + first_k / count_k,   S_k = second_k - first_k first_kᵀ / count_k.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.mixture.view import View


@dataclass(frozen=True)
class Statistics:
    """`centre (K, d)`, `count (K,)`, `first (K, d)`, and what `view` keeps of the second moments, all float64.

    Attributes:
        view: what is kept of matrices.
        log_likelihood: Σ w_i log p(x_i), nats.
        weight: Σ w_i.
    """

    centre: Tensor
    count: Tensor
    first: Tensor
    second: Tensor
    view: View
    log_likelihood: float
    weight: float

    def __add__(self, other: "Statistics") -> "Statistics":
        assert other.view is self.view or self.view.same(other.view), "moments that were kept in different ways"
        if other.centre is not self.centre:
            other = other.about(self.centre)
        return Statistics(
            self.centre,
            self.count + other.count,
            self.first + other.first,
            self.second + other.second,
            self.view,
            self.log_likelihood + other.log_likelihood,
            self.weight + other.weight,
        )

    def scaled(self, factor: float) -> "Statistics":
        """As if every row's weight were `factor` times as large."""
        return Statistics(
            self.centre,
            factor * self.count,
            factor * self.first,
            factor * self.second,
            self.view,
            factor * self.log_likelihood,
            factor * self.weight,
        )

    def about(self, centre: Tensor) -> "Statistics":
        """The same rows about another centre: with s = c - c', first' = first + n s and second' = second + first sᵀ +
        s firstᵀ + n s sᵀ.
        """
        shift = self.centre - centre
        first = self.first + self.count[:, None] * shift
        second = self.second + self.view.outer(self.first, shift) + self.view.outer(shift, first)
        return Statistics(centre, self.count, first, second, self.view, self.log_likelihood, self.weight)

    def means(self, otherwise: Tensor) -> Tensor:
        """m_k; the row of `otherwise (K, d)` for a component without rows."""
        means = self.centre + self.first / self.count[:, None].clamp(min=1e-300)
        return torch.where(self.count[:, None] > 0, means, otherwise)

    def scatter(self) -> Tensor:
        """What the view keeps of S_k."""
        mean = self.first / self.count[:, None].clamp(min=1e-300)
        return self.second - self.view.outer(self.first, mean)

    def pick(self, index: Tensor, share: Tensor) -> "Statistics":
        """The components at these positions, each with so large a share `(K',)` of its rows."""
        return Statistics(
            self.centre[index],
            self.count[index] * share,
            self.first[index] * share[:, None],
            self.second[index] * share.reshape(-1, *[1] * (self.second.ndim - 1)),
            self.view.pick(index),
            self.log_likelihood,
            self.weight,
        )
