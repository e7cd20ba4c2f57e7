"""The last step p(x_0 | x_1), an emission: how the data look when almost no noise is left.

    Levels:  discretised normal around x̂_0(x_1), open end bins        Real:  N(x̂_0(x_1), s² I)

with its own scale s, fitted to validation residuals by maximum likelihood. It is not a step of the chain with a KL:
taking the chain's β_1 or β̂_2 for s² costs half a bit a dimension on 8-bit images.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from jensen.data.space import Levels, Space
from jensen.distributions.conditional import Conditional
from jensen.distributions.discretised import DiscretisedNormal, log_normal_mass
from jensen.rules import Rule, Ruled, between


class Emission(Conditional, Ruled):
    """p(x_0 | x̂_0) with one scale for all dimensions.

    Args:
        space: where x_0 lives, in the model's units.
        scale: s before it is fitted.
    """

    log_scale: Tensor

    def __init__(self, space: Space, scale: float) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("log_scale", torch.tensor(math.log(scale), dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """A scale that float32 can hold."""
        return {"log_scale": between(-80.0, 80.0, "from -80 to 80")}

    def forward(self, given: Float[Tensor, "B *event"]) -> Distribution:
        """The distribution of x_0 given x̂_0 `(B, *event)`; event_shape is `event`."""
        return Independent(self._cells(given.to(torch.float64), self.log_scale.exp()), given.ndim - 1)

    def draw(self, denoised: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"]) -> Float[Tensor, "B *event"]:
        """A draw, from standard normal `eps`."""
        y = denoised + (self.log_scale.exp() * eps).to(denoised.dtype)
        return self._nearest(y)

    def nearest(self, denoised: Float[Tensor, "B *event"]) -> Float[Tensor, "B *event"]:
        """x̂_0 itself, on levels the one nearest to it."""
        return self._nearest(denoised)

    def calibrate(self, x_0: Float[Tensor, "B *event"], denoised: Float[Tensor, "B *event"]) -> None:
        """Set s to its maximum-likelihood value for residuals on validation rows, by golden section in log s.

        On Levels one imagined cell that misses by a level is added to them: rows without a miss would send s to 0,
        and a single miss later would cost (step/s)²/8 nats, without limit.
        """
        residual = (x_0.double() - denoised.double()).square().mean().sqrt().clamp(min=1e-12)
        centre = float(residual.log())

        def cost(log_scale: float) -> float:
            scale = torch.tensor(log_scale, dtype=torch.float64, device=x_0.device).exp()
            half = 0.5 * step / scale
            cells = self._cells(denoised.double(), scale).log_prob(x_0.double())
            return -float(cells.sum() + log_normal_mass(half, 3 * half)) / (x_0.numel() + 1)

        if isinstance(self.space, Levels):
            step = self.space.step
            centre = _minimise(cost, math.log(step) - 8, max(math.log(step) + 4, centre + 2))
        self.log_scale.fill_(centre)

    def _cells(self, loc: Tensor, scale: Tensor) -> DiscretisedNormal | Normal:
        if isinstance(self.space, Levels):
            return DiscretisedNormal(loc, scale, first=self.space.first, step=self.space.step, k=self.space.k)
        return Normal(loc, scale.expand_as(loc), validate_args=False)

    def _nearest(self, y: Tensor) -> Tensor:
        if not isinstance(self.space, Levels):
            return y
        return (self.space.first + self.space.step * self.space.index(y)).to(y.dtype)


def _minimise(cost: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a unimodal function: a grid finds the valley, golden section its bottom."""
    grid = torch.linspace(low, high, 25).tolist()
    best = min(range(len(grid)), key=lambda i: cost(grid[i]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(20):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if cost(a) < cost(b) else (a, high)
    return (low + high) / 2
