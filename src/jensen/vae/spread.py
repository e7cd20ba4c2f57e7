"""Where the scale of a law with a location and a scale comes from.

    example      the decoder, for every cell of every row
    scalar       one number for all cells and rows, learned
    dimension    one a cell, learned
    fixed        given
    optimal      one number, σ² = E ‖x - μ(z)‖² / d, in closed form (Rybkin, Daniilidis and Levine 2021, "Simple and effective VAE training
                 with calibrated decoders", section 3.2)

In training σ² is a running mean of the batches' optima and no gradient goes through it: at the optimum the slope in σ is 0, and
the gradient in all else is that of -½ d log E ‖x - μ‖². After the fit it is the optimum of the validation rows.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.laws.total import single
from jensen.rules import Rule, Ruled, between

MEMORY = 0.05  # of the running mean, a step
LEAST, MOST = 1e-6, 80.0  # the smallest variance, the largest logarithm of a scale


class Spread(nn.Module, ABC):
    """Decoder's numbers → law's numbers. `outputs` is how many it takes of the decoder."""

    outputs: int

    @abstractmethod
    def forward(self, raw: Float[Tensor, "*B cells outputs"]) -> Float[Tensor, "*B cells numbers"]:
        """The law's numbers."""

    def see(self, raw: Tensor, x: Tensor) -> None:
        """Take note of rows and what was said of them, while training."""


class FromNetwork(Spread):
    """All numbers are the decoder's.

    Args:
        outputs: as many as the law's.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, raw: Tensor) -> Tensor:
        """As they are."""
        return raw


class Shared(Spread):
    """The location is the decoder's, the logarithm of the scale is kept here.

    Args:
        log_scale: to begin with, one number or one a cell.
        learned: whether gradients move it.
    """

    outputs = 1
    log_scale: Tensor

    def __init__(self, log_scale: Tensor, *, learned: bool) -> None:
        super().__init__()
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(self, raw: Tensor) -> Tensor:
        """Location and log-scale."""
        loc = single(raw[..., 0])
        return torch.stack([loc, self.log_scale.to(loc).expand(loc.shape)], -1)


class Fixed(Shared, Ruled):
    """A given scale.

    Args:
        log_scale: its logarithm.
    """

    def __init__(self, log_scale: Tensor) -> None:
        super().__init__(log_scale, learned=False)

    def rules(self) -> dict[str, Rule]:
        """A scale that can be computed with."""
        return {"log_scale": between(-MOST, MOST, f"from -{MOST:g} to {MOST:g}")}


class Optimal(Fixed):
    """One scale, √(E ‖x - μ‖² / d).

    Args:
        unit: the logarithm of the scale whose logarithm counts as 0 in the law.
    """

    def __init__(self, unit: float) -> None:
        super().__init__(torch.zeros(()))
        self.unit = unit

    @torch.no_grad()
    def see(self, raw: Tensor, x: Tensor) -> None:
        """The optimum of these rows, mixed into the running mean of σ²."""
        if not self.training:
            return
        mean = (x - raw[..., 0]).square().mean()
        if not bool(mean.isfinite()):
            return  # a step that is skipped leaves no trace
        kept = (2 * (self.log_scale + self.unit)).exp()
        self.set(torch.lerp(kept, mean.to(kept), MEMORY))

    @torch.no_grad()
    def set(self, variance: Tensor) -> None:
        """σ²."""
        self.log_scale.copy_((0.5 * variance.clamp(min=LEAST).log() - self.unit).clamp(-MOST, MOST))


def spread_of(word: str, cells: int, *, sigma: float, unit: float) -> Spread:
    """What a word stands for.

    Args:
        word: example, scalar, dimension, fixed or optimal.
        cells: of a row that are of the law.
        sigma: the scale where it is fixed, and where learning begins.
        unit: the logarithm of the scale whose logarithm counts as 0 in the law.
    """
    start = math.log(sigma) - unit
    made = {
        "example": lambda: FromNetwork(2),
        "scalar": lambda: Shared(torch.tensor(start), learned=True),
        "dimension": lambda: Shared(torch.full((cells,), start), learned=True),
        "fixed": lambda: Fixed(torch.tensor(start)),
        "optimal": lambda: Optimal(unit),
    }
    spread: Spread = made[word]()
    return spread
