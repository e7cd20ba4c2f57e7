"""Hamiltonian Monte Carlo on many rows and chains together (Neal 2011, "MCMC using Hamiltonian dynamics", section 3).

The laws are π_β(u) ∝ N(u; 0, I) e^{β f(u)}, of numbers u in which a posterior is a standard normal. A transition draws a momentum,
follows L leapfrog steps of size ε and accepts with probability min(1, e^{-ΔH}), which leaves π_β as it is, whatever ε is, so long as ε
does not depend on where the chain stands. Steps are a row's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LogRatio = Callable[[Float[Tensor, "C B E"]], Float[Tensor, "C B"]]


@dataclass(frozen=True)
class Point:
    """Where chains stand: u `(C, B, E)`, f(u) `(C, B)` and ∇f(u)."""

    u: Float[Tensor, "C B E"]
    value: Float[Tensor, "C B"]
    slope: Float[Tensor, "C B E"]

    @staticmethod
    def at(f: LogRatio, u: Tensor) -> "Point":
        """With value and slope of f."""
        with torch.enable_grad():
            place = u.detach().requires_grad_(True)
            value = f(place)
            (slope,) = torch.autograd.grad(value.sum(), place)
        return Point(u.detach(), value.detach(), slope.detach())

    def log_density(self, beta: float) -> Tensor:
        """log π_β up to a constant."""
        return beta * self.value - 0.5 * self.u.square().sum(-1)

    def pull(self, beta: float) -> Tensor:
        """∇ log π_β."""
        return beta * self.slope - self.u

    def where(self, taken: Bool[Tensor, "C B"], other: "Point") -> "Point":
        """Itself where taken, the other elsewhere."""
        wide = taken[..., None]
        return Point(
            torch.where(wide, self.u, other.u),
            torch.where(taken, self.value, other.value),
            torch.where(wide, self.slope, other.slope),
        )


def transition(
    f: LogRatio,
    start: Point,
    beta: float,
    step: Float[Tensor, " B"],
    momentum: Float[Tensor, "C B E"],
    uniform: Float[Tensor, "C B"],
    *,
    leapfrogs: int,
) -> tuple[Point, Bool[Tensor, "C B"]]:
    """One step of each chain, and whether it was accepted.

    Args:
        f: log-ratio.
        start: where the chains stand.
        beta: of π_β.
        step: ε of each row.
        momentum: standard normals.
        uniform: numbers in [0, 1).
        leapfrogs: L.
    """
    size = step[:, None]
    point, p = start, momentum + 0.5 * size * start.pull(beta)
    for number in range(leapfrogs):
        point = Point.at(f, point.u + size * p)
        last = number == leapfrogs - 1
        p = p + (0.5 if last else 1.0) * size * point.pull(beta)
    before = start.log_density(beta) - 0.5 * momentum.square().sum(-1)
    after = point.log_density(beta) - 0.5 * p.square().sum(-1)
    accepted = uniform.log() < (after - before).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return point.where(accepted, start), accepted
