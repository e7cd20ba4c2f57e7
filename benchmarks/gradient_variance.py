"""Measured variance of the gradient estimators of a k-draw bound, in a world whose gradient for k = 1 is in closed form.

    python benchmarks/gradient_variance.py

z ~ N(0, 1), x | z ~ N(1.2 z, 0.4), q(z | x) = N(a x + b, e^{2c}) off its best place, two rows. 20,000 repeats each, seed k. Printed for the
gradient in b: its mean, its standard deviation, and their ratio, the signal-to-noise ratio.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from jensen.bounds.gradients import ESTIMATORS
from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import DiagonalNormal

REPEATS = 20_000
THETA, S2 = 1.2, 0.4
X = torch.tensor([[0.7], [-1.3]], dtype=torch.float64)


class Prior(Conditional):
    """N(0, 1)."""

    def forward(self, given: Tensor) -> Distribution:
        """One a row."""
        zeros = given.new_zeros(len(given), 1)
        return DiagonalNormal(zeros, zeros)


class Emission(Conditional):
    """N(θ z, s²)."""

    def forward(self, given: Tensor) -> Distribution:
        """One a z."""
        return Independent(Normal(THETA * given, math.sqrt(S2)), 1)


class Posterior(Conditional):
    """N(a x + b, e^{2c}), every repeat with a b of its own.

    Args:
        b: `(repeats,)`.
    """

    def __init__(self, b: Tensor) -> None:
        super().__init__()
        self.b = b

    def forward(self, given: Tensor) -> DiagonalNormal:
        """One a row."""
        return DiagonalNormal(0.4 * given + self.b.repeat_interleave(2)[:, None], torch.full_like(given, math.log(0.7)))


def gradients(word: str, k: int) -> Tensor:
    """Independent estimates of the gradient in b of the mean bound, `(repeats,)`."""
    b = torch.full((REPEATS,), 0.3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(k, REPEATS * 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    loss = ESTIMATORS[word].loss(Prior(), Emission(), Posterior(b), X.repeat(REPEATS, 1), noise)
    (slope,) = torch.autograd.grad(-loss.sum() / 2, b)
    return slope


def main() -> None:
    """The table."""
    print(f"{'k':>4}  {'estimator':<16} {'mean':>9} {'sd':>9} {'|mean|/sd':>10}")
    for k in (1, 5, 50):
        for word in ESTIMATORS:
            if word == "stl" and k > 1:
                continue
            found = gradients(word, k)
            mean, sd = float(found.mean()), float(found.std())
            print(f"{k:>4}  {word:<16} {mean:>9.4f} {sd:>9.4f} {abs(mean) / sd:>10.3f}")


if __name__ == "__main__":
    main()
