"""The three parts of a latent-variable model, p(z), p(x | z) and q(z | x), also in the company of a class y.

    p(x | y) = ∫ p(z) p(x | z, y) dz,   q(z | x, y)

(Sohn, Lee and Yan 2015, with a prior that the class does not move.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.distributions.conditional import Conditional
from jensen.vae.emission import Emission
from jensen.vae.posterior import Posterior, TwoLayers
from jensen.vae.prior import Prior


class Given(Conditional):
    """A part that is told a class a row.

    Args:
        part: emission or posterior.
        context: `(B, n_classes)`.
    """

    def __init__(self, part: Emission | Posterior | TwoLayers, context: Tensor) -> None:
        super().__init__()
        self.part, self.context = part, context

    def forward(self, given: Tensor) -> Distribution:
        """As the part."""
        return self.part.forward(given, self.context)


@dataclass(frozen=True)
class Joint:
    """What a bound takes: prior, emission and posterior of some rows."""

    prior: Prior
    emission: Conditional
    posterior: Conditional


class Parts(nn.Module):
    """The parts with their parameters.

    Args:
        prior, emission, posterior: the three.
        classes: how many classes rows come with; 0 for none.
    """

    def __init__(self, prior: Prior, emission: Emission, posterior: Posterior | TwoLayers, classes: int = 0) -> None:
        super().__init__()
        self.prior, self.emission, self.posterior, self.classes = prior, emission, posterior, classes

    def given(self, context: Tensor | None) -> Joint:
        """The parts for rows of these classes `(B,)`, or of none."""
        if not self.classes:
            return Joint(self.prior, self.emission, self.posterior)
        y = self.coded(context)
        return Joint(self.prior, Given(self.emission, y), Given(self.posterior, y))

    def coded(self, context: Tensor | None) -> Tensor:
        """One-hot classes."""
        assert context is not None
        return nn.functional.one_hot(context.long(), self.classes).to(torch.float32)
