"""The learning rate's three stages with an early end, and the exponential moving average of the weights.

Warm-up (linear), constant, then linear decay to zero over the last fifth. When the held-out bound has not improved for
`patience` evaluations the decay starts at once, and takes a fifth of the shortened run. All is counted in steps, so that
a resumed run does the same.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DECAY_SHARE = 0.2


@dataclass
class Stages:
    """Where a run of `steps` steps stands.

    Attributes:
        steps: the planned length.
        warmup: steps of linear warm-up.
        patience: evaluations without improvement that start the decay; 0 never does.
        decay_from: the step at which the decay starts.
        best: the best held-out value so far, higher is better.
        waited: evaluations since then.
        earliest: the step before which no decay starts early.
    """

    steps: int
    warmup: int
    patience: int
    decay_from: int = -1
    best: float = -math.inf
    waited: int = 0
    earliest: int = 0

    def __post_init__(self) -> None:
        if self.decay_from < 0:
            self.decay_from = self.steps - int(DECAY_SHARE * self.steps)

    @property
    def last(self) -> int:
        """The number of steps this run will have."""
        return min(self.steps, max(self.decay_from + 1, math.ceil(self.decay_from / (1 - DECAY_SHARE))))

    def rate(self, step: int) -> float:
        """The factor of the learning rate at a step counted from 0."""
        up = min(1.0, (step + 1) / max(1, self.warmup))
        if step < self.decay_from:
            return up
        return up * max(0.0, (self.last - step) / max(1, self.last - self.decay_from))

    def saw(self, step: int, value: float) -> bool:
        """Take note of a held-out value; True if it is the best so far."""
        improved = value > self.best
        self.best, self.waited = (value, 0) if improved else (self.best, self.waited + 1)
        if self.patience and self.waited >= self.patience and self.earliest <= step < self.decay_from:
            self.decay_from = step
        return improved


class EMA:
    """A moving average of parameters: w̄ ← d w̄ + (1 - d) w with d = min(1 - 1/horizon, (1 + n)/(10 + n))."""

    def __init__(self, source: nn.Module, average: nn.Module, horizon: float) -> None:
        self.average: list[Tensor] = [p.detach() for p in average.parameters()]
        self.source: list[Tensor] = [p.detach() for p in source.parameters()]
        self.buffers = list(zip(average.buffers(), source.buffers(), strict=True))
        self.horizon, self.updates = horizon, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the source's present weights."""
        decay = min(1 - 1 / max(1.0, self.horizon), (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, self.source, 1 - decay)
        for kept, new in self.buffers:
            kept.copy_(new)
        self.updates += 1
