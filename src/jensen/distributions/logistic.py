"""The logistic distribution discretised to k equally spaced levels, with open end bins.

    P(level j) = S((v_j + Δ/2 - loc) / scale) - S((v_j - Δ/2 - loc) / scale),      S(t) = 1 / (1 + e^-t),

where the lowest bin reaches down to -∞ and the highest up to +∞, so that the k probabilities sum to one (Salimans et
al. 2017, "PixelCNN++", eq. 2). The difference is taken without cancellation, in either tail, by

    S(b) - S(a) = S(b) S(-a) (1 - e^(a - b)),      b - a = Δ / scale > 0.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from jensen.distributions.discretised import log1mexp


class DiscretisedLogistic(Distribution):
    """Independent discretised logistics.

    Args:
        loc: `(B, *event)`.
        scale: broadcasts to loc, positive; the standard deviation before discretising is π/√3 times it.
        first: the lowest level's value.
        step: the distance between levels.
        k: the number of levels.

    Values are the levels themselves, first + step·j. batch_shape is `(B, *event)`, event_shape is `()`.

    Example:
        >>> law = DiscretisedLogistic(torch.zeros(3), torch.ones(3), first=0.0, step=1.0, k=3)
        >>> round(float(law.log_prob(torch.tensor([0.0, 1.0, 2.0])).exp().sum()), 6)
        1.0
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real

    def __init__(
        self, loc: Float[Tensor, "*shape"], scale: Float[Tensor, "*#shape"], *, first: float, step: float, k: int
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.first, self.step, self.k = first, step, k
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(level) at each value."""
        level = ((value - self.first) / self.step).round()
        centre, half = self.first + self.step * level - self.loc, 0.5 * self.step
        above, below = (centre + half) / self.scale, (half - centre) / self.scale
        high, low = level >= self.k - 1, level <= 0
        up, down = logsigmoid(above).masked_fill(high, 0.0), logsigmoid(below).masked_fill(low, 0.0)
        return up + down + log1mexp(self.step / self.scale).masked_fill(high | low, 0.0)

    def icdf(self, value: Tensor) -> Tensor:
        """The level at which the distribution function passes each probability in (0, 1)."""
        return self.quantise(self.loc + self.scale * torch.logit(value))

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """A logistic draw moved to the nearest level: exactly this distribution."""
        u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=torch.float64)
        return self.icdf(u).to(self.loc.dtype)

    def quantise(self, y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The level nearest to each value of y."""
        return self.first + self.step * ((y - self.first) / self.step).round().clamp(0, self.k - 1)
